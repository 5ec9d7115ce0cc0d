package main

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ouvira/ouvira/dataplane/internal/directory"
	tenantmail "github.com/ouvira/ouvira/dataplane/internal/mail"
	"github.com/ouvira/ouvira/dataplane/internal/outbox"
	"github.com/ouvira/ouvira/dataplane/internal/sms"
	"github.com/ouvira/ouvira/dataplane/internal/tenantpool"
	"github.com/ouvira/ouvira/shared/mail"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/seal"
)

// newDrainer wires what sends the tenants' mail and SMS.
func newDrainer(s settings, log *slog.Logger, registry *prometheus.Registry, routes *directory.Directory, pools *tenantpool.Pools, key *seal.DataKey, auditing *auditing) (*outbox.Drainer, error) {
	smtp, err := mail.NewSMTP(s.mail())
	if err != nil {
		return nil, err
	}
	senders := map[outbox.Channel]outbox.Sender{
		outbox.Email: tenantmail.New(smtp),
		outbox.SMS:   outbox.Off{Reason: "SMS are off: set TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN and TWILIO_PHONE_NUMBER"},
	}
	if s.TwilioSID == "" {
		log.Warn("SMS are off: codes cannot be sent to phones. Set TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN and TWILIO_PHONE_NUMBER")
	} else if senders[outbox.SMS], err = sms.New(s.sms()); err != nil {
		return nil, err
	}
	return outbox.New(outbox.Options{
		Routes: routes, Key: key, Senders: senders, Fleet: sealedToo{outbox.NewControlFleet(auditing.control, s.NodeID), auditing.Served}, Log: log, Registerer: registry,
		Lease: func(ctx context.Context, r *route.Route) (outbox.Lease, error) {
			// Also right after the request that wrote the message: the connection
			// that it has given back is taken then.
			lease, err := pools.Background(ctx, r)
			if err != nil {
				return nil, err // a nil *Lease in an interface would not be nil
			}
			return lease, nil
		},
	})
}
