-- One-time codes, two factors.
SELECT;
