package httpapi

import (
	"context"
	"encoding/json"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/billing"
	"github.com/ouvira/ouvira/shared/fault"
)

// Payment is an entry of a tenant's ledger.
type Payment struct {
	ID         uuid.UUID `json:"id" format:"uuid"`
	Amount     string    `json:"amount" doc:"A decimal number, as it was given." example:"120.00"`
	Currency   string    `json:"currency" example:"EUR"`
	PeriodEnd  string    `json:"period_end" format:"date" doc:"The last day that is paid." example:"2027-01-31"`
	Reference  string    `json:"reference" doc:"The payment counts once under it." example:"INV-2027-0042"`
	RecordedBy string    `json:"recorded_by"`
	CreatedAt  time.Time `json:"created_at"`
}

func paymentOf(p billing.Payment) Payment {
	return Payment{
		ID: p.ID, Amount: p.Amount, Currency: p.Currency, PeriodEnd: p.PeriodEnd.Format(time.DateOnly),
		Reference: p.Reference, RecordedBy: p.RecordedBy, CreatedAt: p.CreatedAt,
	}
}

// Amount is a decimal number as somebody sends it: a text, or a number of JSON, of which
// no digit is lost either.
type Amount string

// UnmarshalJSON implements json.Unmarshaler.
func (a *Amount) UnmarshalJSON(raw []byte) error {
	if len(raw) > 0 && raw[0] != '"' {
		*a = Amount(raw)
		return nil
	}
	return json.Unmarshal(raw, (*string)(a))
}

// Schema implements huma.SchemaProvider.
func (Amount) Schema(huma.Registry) *huma.Schema {
	most := 20
	return &huma.Schema{
		OneOf:       []*huma.Schema{{Type: huma.TypeString, MaxLength: &most}, {Type: huma.TypeNumber}},
		Description: "A decimal number, as text or as a number.", Examples: []any{"120.00"},
	}
}

type recordPaymentInput struct {
	TenantPath

	Body struct {
		Amount    Amount `json:"amount"`
		Currency  string `json:"currency" maxLength:"3" example:"EUR"`
		PeriodEnd string `json:"period_end" maxLength:"10" doc:"The last day that is paid. What is paid for longer stays so." example:"2027-01-31"`
		Reference string `json:"reference" maxLength:"400" example:"INV-2027-0042" doc:"Sent again with the same values, the payment counts once."`
	}
}

func (a *api) recordPayment(ctx context.Context, in *recordPaymentInput) (*body[Payment], error) {
	t, err := a.find(ctx, in.TenantPath)
	if err != nil {
		return nil, err
	}
	end, err := time.Parse(time.DateOnly, in.Body.PeriodEnd)
	if err != nil {
		const message = "A day is written as in 2027-01-31."
		return nil, fault.Invalid(message).OnField("period_end", "date", message)
	}
	p, err := a.Billing.Record(ctx, actorOf(ctx), t.ID, billing.Payment{
		Amount: string(in.Body.Amount), Currency: in.Body.Currency, PeriodEnd: end, Reference: in.Body.Reference,
	})
	if err != nil {
		return nil, err
	}
	return &body[Payment]{paymentOf(p)}, nil
}

type listPaymentsInput struct {
	TenantPath
	Paging
}

func (a *api) listPayments(ctx context.Context, in *listPaymentsInput) (*body[List[Payment]], error) {
	t, err := a.find(ctx, in.TenantPath)
	if err != nil {
		return nil, err
	}
	found, next, err := a.Billing.List(ctx, t.ID, in.Cursor, in.Limit)
	if err != nil {
		return nil, err
	}
	items := make([]Payment, 0, len(found))
	for _, p := range found {
		items = append(items, paymentOf(p))
	}
	return listed(items, next), nil
}
