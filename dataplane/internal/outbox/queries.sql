-- name: Add :exec
INSERT INTO public.outbox (channel, recipient, template, language, payload_sealed, user_id)
VALUES (@channel, @recipient, @template, @language, @payload_sealed, @user_id);
