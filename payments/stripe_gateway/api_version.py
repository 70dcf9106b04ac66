"""The version of Stripe's API that this release was written and tested against."""

# Sent with every call, so an upgrade in Stripe's Dashboard changes nothing here. Raise it together with the `stripe`
# package (the package's types describe this version) and read Stripe's changelog between the two.
STRIPE_API_VERSION = "2026-10-28.endive"
