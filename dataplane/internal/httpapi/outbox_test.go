package httpapi_test

import (
	"slices"
	"testing"

	"github.com/ouvira/ouvira/dataplane/internal/outbox"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/testdb"
)

// messages are the mails and SMS of a tenant that have not left yet, oldest
// first, with their values opened.
func messages(t *testing.T, n *node, tenant tenanttest.Tenant) []outbox.Message {
	t.Helper()
	conn := testdb.Connect(t, tenant.AdminURL)
	defer conn.Close(t.Context())
	rows, err := conn.Query(t.Context(), `SELECT channel, recipient, template, language, user_id, payload_sealed
		FROM public.outbox WHERE payload_sealed IS NOT NULL ORDER BY id`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var found []outbox.Message
	for rows.Next() {
		var m outbox.Message
		var sealed []byte
		if err := rows.Scan(&m.Channel, &m.To, &m.Template, &m.Language, &m.UserID, &sealed); err != nil {
			t.Fatal(err)
		}
		if m.Values, err = outbox.Open(n.Key, tenant.ID, m, sealed); err != nil {
			t.Fatalf("the %s for %s: %v", m.Template, m.To, err)
		}
		found = append(found, m)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return found
}

// lastMessage is the newest message to somebody; the test ends if there is none.
func lastMessage(t *testing.T, n *node, tenant tenanttest.Tenant, to string) outbox.Message {
	t.Helper()
	all := messages(t, n, tenant)
	for _, m := range slices.Backward(all) {
		if m.To == to {
			return m
		}
	}
	t.Fatalf("no message to %s is waiting, but %d to others", to, len(all))
	return outbox.Message{}
}

func TestAMessageOpensForItsRecipientAndTenantOnly(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	sent := outbox.Message{Channel: outbox.SMS, To: "+491701234567", Template: outbox.TemplateOTP, Values: map[string]string{"code": "424242", "minutes": "5"}}
	conn := testdb.Connect(t, n.A.AdminURL)
	defer conn.Close(t.Context())
	if err := outbox.NewQueue(n.A.Route, n.Key).Add(t.Context(), conn, sent); err != nil {
		t.Fatal(err)
	}
	if got := lastMessage(t, n, n.A, sent.To); got.Values["code"] != "424242" || got.Template != outbox.TemplateOTP {
		t.Errorf("read back %+v", got)
	}
	if got := messages(t, n, n.B); len(got) != 0 {
		t.Errorf("tenant B has %d messages", len(got))
	}
	sealed := value[[]byte](t, n.A, "SELECT payload_sealed FROM public.outbox")
	if _, err := outbox.Open(n.Key, n.B.ID, sent, sealed); err == nil {
		t.Error("the message opened as tenant B's")
	}
	moved := sent
	moved.To = "+491709999999"
	if _, err := outbox.Open(n.Key, n.A.ID, moved, sealed); err == nil {
		t.Error("the message opened for another number")
	}
}
