-- What Stripe said of a payment's refunds and disputes during a conflict is weighed once an operator has settled it.

set local lock_timeout = '5s';
set local statement_timeout = '5min';

create function payments.weigh_again() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  update payments.inbox i
  set processed_at = null, outcome = null, attempts = 0, next_attempt_at = clock_timestamp()
  where i.payment_id = new.payment_id and i.outcome = 'ignored'
    and i.message_type ~ '^(refund[.]|charge[.]dispute[.]|api[.]create_refund$|fetched[.](refund|dispute)$)'
    and i.processed_at >= (
      select max(h.at) from payments.payment_history h where h.payment_id = new.payment_id and h.decision = 'conflicted'
    );
  return null;
end $$;
create trigger weigh_again after update of status on payments.payments for each row
when (old.status = 'CONFLICTED' and new.status <> 'CONFLICTED')
execute function payments.weigh_again();

revoke all on function payments.weigh_again from public;
