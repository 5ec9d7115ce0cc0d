-- Password history, verification of addresses.
SELECT;
