/* Charging: from a command in the queue payment_requested to one outcome in the outbox, with at most one charge at Stripe.
 *
 * One payment, for payments do not touch each other here. Two workers, two recorders, two reconcilers and the API work on it;
 * each may die at any step and be started again, any number of times, and sleep as long as it likes: leases run out, and days
 * pass. Stripe may answer, decline, be slow, fail, refuse for the rate, or execute what it is never heard of again; its
 * events may be lost. delivery.pml proves that the command comes into the queue, and that the outcome leaves the outbox.
 * What abstracts which line of code: docs/model.md. To run it: make model
 */

/* The ways in which the protocol can be broken; BROKEN names one of them, and each must fail. */
#define NO_FENCE           1  /* an ack matches the message alone, not the lease */
#define NEW_KEY_ON_RETRY   2  /* each attempt has a key of its own */
#define NO_INTENT          3  /* what was sent is written down after the call only */
#define BLIND_RETRY        4  /* the same key goes out again however old it is */
#define PUBLISH_FIRST      5  /* the outcome is committed before the payment and the inbox row */
#define ACK_FIRST          6  /* the ack is committed before the inbox row */
#define NO_ROW_LOCK        7  /* the recorder reads the payment without locking it */
#define TIMEOUT_IS_FAILURE 8  /* no answer: FAILED */
#define NO_HOLD            9  /* the lease is not looked at again before the call */
#define REVIVE_LEASE      10  /* a lease that has run out is extended, if nobody has taken the message meanwhile */
#define NO_QUIET_TIME     11  /* the reconciler looks while an old attempt may still be under way */
#define NO_PROOF          12  /* the reconciler gives a new key without looking */
#define SETTLE_TWICE      13  /* the reconciler does not ask whether the call is still to be reconciled */
#define OLD_COMMAND       14  /* the reconciler sends no command when one is still in the queue */
#define UNCOUNT_TWICE     15  /* an attempt that did nothing is uncounted even when it is not the last one under way */
#define SLEEP_IN_CALL     16  /* no fault of ours: a worker sleeps for a day between its look at the lease and the call */
#ifndef BROKEN
#define BROKEN 0
#endif
#define broken(variant) (BROKEN == variant)

/* What may happen, too; all of it at once takes long, so checks.py has combinations. */
#define VOIDS         1  /* the client takes the payment back */
#define RATE_LIMITS   2  /* Stripe says 429, and has done nothing */
#define DAYS          4  /* keys grow old, and Stripe forgets them */
#define SERVER_ERRORS 8  /* Stripe says 500, has done something or not, and says so again under the same key */
#define LATECOMERS   16  /* a request reaches Stripe after its worker has given up or died */
#ifndef WITH
#define WITH (VOIDS | RATE_LIMITS | DAYS | SERVER_ERRORS | LATECOMERS)
#endif
#define with(part) ((WITH & (part)) != 0)

bool calm;            /* from now on nothing fails any more */

/* payments.payments: the one payment, and its row's lock where it is held for longer than a step */
mtype:status = { REQUESTED, VOIDING, SUCCEEDED, FAILED, VOIDED };
mtype:status status = REQUESTED;
bool locked;
byte published;       /* outcomes in the outbox */
#define unlocked (!locked || broken(NO_ROW_LOCK))
#define wanted (status == REQUESTED || status == VOIDING)

/* payments.stripe_requests: the newest generation of the call. Its key is the generation: {payment}/{operation}/{generation}.
 * TOO_OLD and CACHED_ERROR are both to_reconcile; ABSENT is answered, outcome absent. */
mtype:call = { OPEN, TOO_OLD, CACHED_ERROR, ABSENT, ANSWERED };
mtype:call call = OPEN;
byte generation = 1, attempts;
byte last_begun;      /* whose attempt last_attempt_at and in_flight tell of: a worker's number and 1, or 0 */
mtype:age = { FRESH, OVER_23_HOURS, OVER_24_HOURS };
mtype:age age = FRESH;  /* since first_attempt_at */

/* pgmq.q_payment_requested. (msg_id, read_ct) names a lease, and all that is ever asked of it is whether it is the newest of
 * its message: so the number of the worker that has it, and 1, stands for read_ct. */
typedef Message { bool queued, invisible; byte lease };
Message queue[2];
bool first_is_busy;   /* alike processes need no two orders: the second begins only while the first is at work */
#define owned(m) (queue[m].lease == me + 1)
#define visible(m) (queue[m].queued && !queue[m].invisible)

/* payments.inbox: rows yet to be weighed. Rows that say the same wait as one; ASKED: stripe-api, reconciler, TOLD: stripe-webhook */
mtype:word = { NOTHING, CHARGED, DECLINED, SERVER_ERROR, TOO_MANY };
#define ASKED 0
#define TOLD 1
mtype:word inbox[2] = NOTHING;
bool claimed[2];

/* Stripe: the key's answer while it is remembered, what its list shows, what it has charged, requests that are on their way
 * though nobody waits for them any more (of the first generation; a later one shows nothing new) */
mtype:word remembered[4] = NOTHING, listed = NOTHING;
byte charges;
bool late;
bool sending[2];      /* workers between their look at the lease and the end of the call */

#define me _pid       /* workers are the first two processes */

inline charge(key) {
  charges++; listed = CHARGED;
  printf("Stripe charges, under key %d\n", key);
  assert(charges == 1);  /* at most one charge */
  assert(status != FAILED && status != VOIDED);  /* never FAILED, nor VOIDED, in doubt: what may still be charged is not over */
  if :: inbox[TOLD] = CHARGED :: true fi            /* its event comes some time, or never */
}
inline execute(key) {                               /* sets `heard` to what an answer would say */
  if
  :: remembered[key] != NOTHING -> heard = remembered[key]
  :: else ->
    if
    :: charge(key); remembered[key] = CHARGED; heard = CHARGED
    :: listed = DECLINED; remembered[key] = DECLINED; heard = DECLINED; printf("Stripe declines, under key %d\n", key);
       if :: inbox[TOLD] = DECLINED :: true fi
    :: with(SERVER_ERRORS) && !calm && key == 1 -> remembered[key] = SERVER_ERROR; heard = NOTHING
    :: with(SERVER_ERRORS) && !calm && key == 1 -> charge(key); remembered[key] = SERVER_ERROR; heard = NOTHING
    fi
  fi
}
inline publish(outcome) {
  status = outcome; published++;
  printf("%e is published\n", outcome);
  assert(published == 1);  /* each outcome is published once */
  assert(outcome == SUCCEEDED || charges == 0)  /* never FAILED, nor VOIDED, in doubt: nothing has been charged */
}
inline ack() {
  if
  :: owned(m) || broken(NO_FENCE) ->
    printf("worker %d acknowledges message %d\n", me, m);
    assert(owned(m));  /* never an ack by a lost lease */
    queue[m].queued = false; queue[m].invisible = false; queue[m].lease = 0
  :: else -> printf("worker %d has lost its lease\n", me)
  fi
}

active [2] proctype worker() {
  byte m, key; mtype:word heard = NOTHING;
end_idle:
  atomic {  /* queues.sql: lease */
    if
    :: visible(0) && (me == 0 || first_is_busy)
    :: visible(1) && !visible(0) && (me == 0 || first_is_busy) -> m = 1
    fi;
    queue[m].invisible = true; queue[m].lease = me + 1;
    if :: me == 0 -> first_is_busy = true :: else fi;
    printf("worker %d leases message %d\n", me, m)
  }
  atomic {  /* transaction 1: intent.py, decide_create */
    if
    :: !calm -> goto stop
    :: unlocked ->
      if
      :: !wanted ->
        if :: call != ABSENT -> call = ANSWERED :: else fi;
        ack(); goto stop
      :: status == VOIDING && (call == ABSENT || call == OPEN && attempts == 0) ->
        if :: call == OPEN -> call = ANSWERED :: else fi;
        publish(VOIDED); ack(); goto stop
      :: wanted && call != OPEN && call != ABSENT -> ack(); goto stop
      :: wanted && call == OPEN && attempts > 0 && age != FRESH && !broken(BLIND_RETRY) ->
        call = TOO_OLD; printf("worker %d leaves the call to the reconciler: the key is too old\n", me);
        ack(); goto stop
      :: else ->
        if
        :: call == ABSENT || broken(NEW_KEY_ON_RETRY) && attempts > 0 && generation < 3 ->
          generation++; call = OPEN; attempts = 0
        :: else
        fi;
        if
        :: !broken(NO_INTENT) ->
          if :: attempts == 0 -> age = FRESH :: else fi;
          if :: attempts < (with(RATE_LIMITS) -> 3 : 1) -> attempts++ :: else fi;  /* 3: three or more */
          if :: with(RATE_LIMITS) -> last_begun = me + 1 :: else fi
        :: else
        fi;
        key = generation; printf("worker %d intends to call with key %d\n", me, key)
      fi
    fi
  }
  atomic {  /* Handler._hold: the lease must last until the call is over */
    if
    :: !calm -> goto stop
    :: owned(m) && (queue[m].invisible || broken(REVIVE_LEASE)) || broken(NO_HOLD) ->
      queue[m].invisible = queue[m].queued; sending[me] = true
    :: !(owned(m) && (queue[m].invisible || broken(REVIVE_LEASE)) || broken(NO_HOLD)) -> goto stop
    fi
  }
  atomic {  /* Handler._call: no transaction open */
    if
    :: printf("worker %d calls\n", me); execute(key)
    :: !calm -> printf("worker %d calls, the answer is lost\n", me); execute(key); heard = NOTHING
    :: with(LATECOMERS) && !calm && key == 1 -> late = true; printf("worker %d calls and gives up; the request is still on its way\n", me)
    :: !calm -> printf("worker %d calls, the request is lost\n", me)
    :: !calm && with(RATE_LIMITS) -> heard = TOO_MANY; printf("worker %d calls and hears 429\n", me)
    :: with(LATECOMERS) && !calm && key == 1 -> late = true; printf("worker %d dies; its request is on its way\n", me); goto stop
    :: !calm -> goto stop
    fi;
    sending[me] = false
  }
store:
  atomic {  /* transaction 2: Handler._record */
    if
    :: !calm -> goto stop
    :: heard == CHARGED || heard == DECLINED ->  /* record_answer, and the fenced ack */
      if :: key == generation && call != ABSENT -> call = ANSWERED :: else fi;
      if :: broken(ACK_FIRST) -> ack(); goto late_answer :: else fi;
      inbox[ASKED] = heard; ack(); goto stop
    :: heard == SERVER_ERROR ->                  /* leave_to_reconciler, and the fenced ack */
      if :: key == generation && (call == OPEN || call == TOO_OLD) -> call = CACHED_ERROR :: else fi;
      ack(); goto stop
    :: heard == NOTHING || heard == TOO_MANY ->  /* record_doubt, and the fenced postponement */
      if
      :: broken(TIMEOUT_IS_FAILURE) && heard == NOTHING && wanted && !locked -> publish(FAILED)
      :: else
      fi;
      if
      :: heard == TOO_MANY && key == generation && call == OPEN && attempts > 0 &&
         (last_begun == me + 1 || broken(UNCOUNT_TWICE)) -> attempts--
      :: broken(NO_INTENT) && heard == NOTHING && key == generation -> attempts = 1
      :: else
      fi;
      if :: last_begun == me + 1 -> last_begun = 0 :: else fi;
      if :: owned(m) || broken(NO_FENCE) -> assert(owned(m)); queue[m].invisible = false :: else fi;
      if :: goto stop :: !calm -> goto store fi  /* the commit itself was in doubt, so it is done once more */
    fi
  }
late_answer:
  atomic { if :: !calm :: inbox[ASKED] = heard fi }
stop:
  atomic {  /* done, or dead and started again: what it has not committed is gone */
    if :: last_begun == me + 1 -> last_begun = 0 :: else fi;
    if :: owned(m) -> queue[m].lease = 0 :: else fi;
    if :: me == 0 -> first_is_busy = false :: else fi;
    sending[me] = false; m = 0; key = 0; heard = NOTHING
  }
  goto end_idle
}

active [2] proctype recorder() {  /* Recorder.run_once: one transaction, in two steps, for its lock is what is at stake */
  byte row; bool is_outcome;
#define free(r) (inbox[r] != NOTHING && !claimed[r] && unlocked && (_pid == 2 || claimed[1 - r]))
end_idle:
  atomic {
    if
    :: free(ASKED)
    :: free(TOLD) -> row = TOLD
    fi;
    claimed[row] = true; locked = true; is_outcome = wanted
  }
  atomic {
    if
    :: !broken(PUBLISH_FIRST)
    :: broken(PUBLISH_FIRST) && is_outcome ->
      published++; printf("the outcome is published\n");
      assert(published == 1)  /* each outcome is published once */
    :: broken(PUBLISH_FIRST) && !is_outcome
    fi
  }
  atomic {
    if
    :: !calm -> printf("a recorder dies, all is rolled back\n")
    :: is_outcome ->
      if :: broken(PUBLISH_FIRST) -> published-- :: else fi;
      if :: inbox[row] == CHARGED -> publish(SUCCEEDED) :: else -> publish(FAILED) fi;
      inbox[row] = NOTHING
    :: !is_outcome -> inbox[row] = NOTHING
    fi;
    claimed[row] = false; locked = false; row = 0; is_outcome = false
  }
  goto end_idle
}

active proctype reconcilers() {  /* two of them: each looks at Stripe, and settles the call in a transaction some time later */
  byte looked[2]; mtype:word found[2] = NOTHING; byte r;
#define doubtful (call == TOO_OLD || call == CACHED_ERROR)
#define may_look (call == CACHED_ERROR || call == TOO_OLD && (age == OVER_24_HOURS || broken(NO_QUIET_TIME)))
end_idle:
  do
  :: atomic { may_look && !looked[0] -> looked[0] = generation; found[0] = listed }
  :: atomic { may_look && !looked[1] && looked[0] -> looked[1] = generation; found[1] = listed }
  :: atomic {
    if :: looked[0] :: looked[1] -> r = 1 fi;
    if
    :: !calm -> printf("a reconciler dies\n")
    :: unlocked ->
      if
      :: looked[r] == generation && doubtful || broken(SETTLE_TWICE) ->
        if
        :: found[r] != NOTHING && !broken(NO_PROOF) ->
          inbox[ASKED] = found[r]; call = ANSWERED; printf("a reconciler has found: %e\n", found[r])
        :: else ->
          call = ABSENT; printf("a reconciler has found nothing\n");
          if
          :: !queue[0].queued -> queue[0].queued = true
          :: queue[0].queued && !broken(OLD_COMMAND) -> queue[1].queued = true
          :: else
          fi
        fi;
        if :: !broken(SETTLE_TWICE) -> looked[1 - r] = 0; found[1 - r] = NOTHING :: else fi
      :: else
      fi
    fi;
    looked[r] = 0; found[r] = NOTHING; r = 0
  }
  od
}

active proctype client() {
  queue[0].queued = true;  /* the payment is committed, and delivery.pml does its part */
  with(VOIDS) ->
end_void:
  atomic { status == REQUESTED && unlocked -> status = VOIDING; printf("the client takes the payment back\n") }
}

active proctype world() {
  mtype:word heard = NOTHING; byte m;
#define run_out() queue[0].invisible = false; queue[1].invisible = false
end_idle:
  do
  :: atomic { !calm && queue[0].invisible -> queue[0].invisible = false; printf("the lease of message 0 runs out\n") }
  :: atomic { !calm && queue[1].invisible -> queue[1].invisible = false; printf("the lease of message 1 runs out\n") }
  :: atomic { calm && queue[0].invisible && queue[0].lease == 0 -> queue[0].invisible = false }
  :: atomic { calm && queue[1].invisible && queue[1].lease == 0 -> queue[1].invisible = false }
  :: atomic { with(DAYS) && generation == 1 && age == FRESH && (attempts > 0 || remembered[1] != NOTHING) ->
      age = OVER_23_HOURS; run_out(); printf("23 hours have passed\n") }
  :: atomic { with(DAYS) && generation == 1 && age == OVER_23_HOURS &&
              (!sending[0] && !sending[1] && !late || broken(SLEEP_IN_CALL)) ->
      age = OVER_24_HOURS; remembered[1] = NOTHING; run_out(); printf("24 hours have passed, Stripe forgets the key\n") }
  :: atomic { late -> late = false; if :: execute(1) :: true fi; heard = NOTHING }
  :: atomic { !calm -> calm = true; printf("all is calm\n") }
  od
}

#define SETTLED (status == SUCCEEDED && charges == 1 || (status == FAILED || status == VOIDED) && charges == 0)
#define DONE (SETTLED && published == 1 && (call == ANSWERED || call == ABSENT) && \
  !queue[0].queued && !queue[1].queued && inbox[ASKED] == NOTHING && inbox[TOLD] == NOTHING)

/* Nothing can move any more: then everything must be done. */
active proctype rest() {
end:
  timeout -> assert(DONE)  /* whatever was committed is recorded and published in the end */
}

/* Convergence: once the faults have ended, a run that is not DONE at last, for good, is an error. */
never {
storm:
  if
  :: !calm -> goto storm
  :: calm -> goto lull
  fi;
lull:
  if
  :: DONE -> goto lull
  :: !DONE -> goto accept_undone
  fi;
accept_undone:
  if
  :: DONE -> goto lull
  :: !DONE -> goto accept_undone
  fi
}
