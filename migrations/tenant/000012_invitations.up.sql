-- Invitations.
SELECT;
