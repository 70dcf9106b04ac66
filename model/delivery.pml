/* Delivery: from a committed row of the outbox to the queues that are bound to it, each exactly once.
 *
 * Three transactions write a row each, take its id early and commit late, or never; two relays serve two lanes, in batches
 * of one row. Any process dies at any step, any number of times. charging.pml stands on what is proved here: a row that is
 * committed reaches its queue once. What abstracts which line of code: docs/model.md. To run it: make model
 */

/* The ways in which the protocol can be broken; BROKEN names one of them. Each must fail, but for the first two: of the two
 * guards that hold relays apart, either suffices. */
#define NO_LANE_LOCK     1  /* two relays may be in one lane */
#define NO_PREDECESSOR   2  /* two batches may have the same predecessor */
#define NO_LANE_GUARD    3  /* both */
#define CURSOR_BY_ID     4  /* the lane remembers the highest id that it has dispatched, not a snapshot */
#define SEND_BEFORE_MARK 5  /* the messages are committed first, the batch in a transaction of its own */
#ifndef BROKEN
#define BROKEN 0
#endif
#define broken(variant) (BROKEN == variant)

#define ROWS 3
#define bit(row) (1 << (row))
#define NO_ROW ROWS

bool calm;            /* from now on nothing fails any more */

/* payments.outbox: the id is given out inside of a transaction, the row is seen once that is committed. */
byte id[ROWS], next_id = 1;
byte committed;       /* the rows that a snapshot taken now would see, as a set of bits */

/* payments.relay_batches: how far a lane has come; the last batch is all that is asked of it. */
typedef Lane {
  byte batch;         /* which batch was the last */
  byte after, upto;   /* its window: rows in `upto`, and not in `after`; equal once it is dispatched to its end */
  byte position;      /* inside an open window: all its rows up to this id are dispatched */
  bool locked;        /* pg_try_advisory_xact_lock */
  byte sent           /* what the queue of this lane got: bits again */
};
Lane lane[2];
#define bound(l) (bit(l) | bit(2))  /* row 0 goes to lane 0, row 1 to lane 1, row 2 to both: pgmq.topic_bindings */

/* A transaction of the API, of a recorder or of a worker that writes to the outbox. */
active [ROWS] proctype writer() {
  byte row = _pid;
  atomic { id[row] = next_id; next_id++ }
  atomic {
    if
    :: committed = committed | bit(row); printf("row %d commits, its id is %d\n", row, id[row])
    :: !calm -> printf("row %d is rolled back: nothing is owed for it\n", row)
    fi
  }
}

/* payments.dispatch(lane, 1): one transaction, in two steps, since others commit in between. */
active [2] proctype relay() {
  byte l, row, snapshot, batch, i; bool has_more;
#define pending(l) (bound(l) & committed & ~lane[l].after)
#define forks_allowed (broken(NO_PREDECESSOR) || broken(NO_LANE_GUARD))
#define open(l) (broken(NO_LANE_LOCK) || broken(NO_LANE_GUARD) || !lane[l].locked)
end_idle:
  atomic {
    if
    :: open(0) && pending(0)
    :: open(1) && pending(1) -> l = 1
    fi;
    d_step {
      lane[l].locked = true; batch = lane[l].batch;
      if
      :: lane[l].after == lane[l].upto -> snapshot = committed & bound(l)  /* a new window, up to pg_current_snapshot() */
      :: else -> snapshot = lane[l].upto                                   /* the rest of the open one */
      fi;
      row = NO_ROW; i = 0;
      do  /* the row with the least id beyond the position, and whether there are more */
      :: i < ROWS ->
        if
        :: (snapshot & bit(i)) && !(lane[l].after & bit(i)) && id[i] > lane[l].position ->
          has_more = (row != NO_ROW);
          if :: row == NO_ROW || id[i] < id[row] -> row = i :: else fi
        :: else
        fi;
        i++
      :: else -> break
      od;
      i = 0
    }
  }
  atomic {
    if
    :: !calm -> printf("relay %d dies, all is rolled back\n", _pid - ROWS)
    :: batch == lane[l].batch || forks_allowed ->
      if
      :: row != NO_ROW ->
        printf("relay %d sends row %d to queue %d\n", _pid - ROWS, row, l);
        assert(!(lane[l].sent & bit(row)));  /* each row reaches each queue at most once */
        lane[l].sent = lane[l].sent | bit(row)
      :: else
      fi;
      if
      :: broken(SEND_BEFORE_MARK) && !calm -> goto forget
      :: else
      fi;
      lane[l].batch++;
      if
      :: broken(CURSOR_BY_ID) ->
        if :: row != NO_ROW -> lane[l].position = id[row] :: else fi;
        if :: !has_more -> lane[l].after = snapshot; lane[l].upto = snapshot :: else -> lane[l].upto = snapshot fi
      :: else ->
        lane[l].upto = snapshot;
        if
        :: has_more -> lane[l].position = id[row]
        :: else -> lane[l].position = 0; lane[l].after = snapshot
        fi
      fi
    :: batch != lane[l].batch && !forks_allowed ->
      printf("relay %d is refused: another batch has the same predecessor\n", _pid - ROWS)
    fi;
forget:
    lane[l].locked = false; l = 0; row = 0; snapshot = 0; batch = 0; has_more = false
  }
  goto end_idle
}

active proctype weather() { calm = true }

#define all_sent(l) (lane[l].sent == (committed & bound(l)))
#define DONE (all_sent(0) && all_sent(1))

/* Nothing can move any more: then everything must be done. */
active proctype rest() {
end:
  timeout -> assert(DONE)  /* each committed row reaches every queue that is bound to it */
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
