-- Support access: one-time codes that nodes redeem.
SELECT;
