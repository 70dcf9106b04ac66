"""What `payments up` tells its user once everything is ready."""

import os
import shutil
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path

from payments.development.dev_env import DEV_ENV
from payments.development.embedded_postgres import bundled_bin_dir

WELCOME = """
Ready.

  API          {API_URL}            pages: {API_URL}/schema
  API key      {API_KEY}
  Stripe       {stripe}
  Database     {DATABASE_URL}
  All of this  {dev_env}   (source it: set -a; . {dev_env}; set +a)

Try next, in another terminal:

  curl -s {API_URL}/payments/authorize -H 'Authorization: Bearer {API_KEY}' \\
    -H 'Content-Type: application/json' -H 'Prefer: wait=10' -H "Idempotency-Key: $(date +%s)" \\
    -d '{{"cartId": "{cart_id}", "amount": 1999, "currency": "EUR",
         "paymentMethod": "pm_card_visa"}}'

  curl -s '{API_URL}/payments?limit=5' -H 'Authorization: Bearer {API_KEY}'

  {payments} demo                  some hundred checkouts, then our books against Stripe's
  {psql} '{DATABASE_URL}' -c 'TABLE payments.payment_timeline'

Ctrl-C stops everything.
"""


def welcome(values: Mapping[str, str], data_dir: Path, *, sandbox: bool) -> str:
    """Return what to print once everything is ready."""
    kind = "the sandbox, not Stripe itself: no real money" if sandbox else "as set by STRIPE_API_KEY"
    psql = "psql" if shutil.which("psql") else str(bundled_bin_dir() / "psql")
    ours = Path(sys.executable).parent / "payments"
    payments = "payments" if shutil.which("payments") else os.path.relpath(ours)
    stripe = f"{values['STRIPE_API_BASE']}  ({kind})"
    dev_env = data_dir / DEV_ENV
    return WELCOME.format(**values, psql=psql, payments=payments, stripe=stripe, dev_env=dev_env, cart_id=uuid.uuid4())
