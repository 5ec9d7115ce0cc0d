package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/identity"
	"github.com/ouvira/ouvira/dataplane/internal/replay"
	"github.com/ouvira/ouvira/shared/pg"
)

// Of a POST by somebody who is signed in, Idempotency-Key makes one that can
// be sent again: within a day the same request under the same key is answered
// as it was then, and not done again. Refusals are not remembered. A replay is
// marked by headerReplayed; secrets are shown once, and the replay has them
// empty and named in headerOmitted.
const (
	headerKey      = "Idempotency-Key"
	headerReplayed = "Idempotency-Replayed"
	headerOmitted  = "Idempotency-Omitted"
)

// documentKey describes the header where it has an effect.
func documentKey(o *huma.Operation) {
	if o.Method != http.MethodPost {
		return
	}
	o.Parameters = append(o.Parameters, &huma.Param{
		Name: headerKey, In: "header",
		Description: "A fresh UUID makes it safe to send the request again: within 24 hours the same request is answered as it was, " +
			"with " + headerReplayed + ": true, and not done twice; secrets are shown the first time only. Another request under the same key is refused (422).",
		Schema: &huma.Schema{Type: huma.TypeString, MinLength: new(1), MaxLength: new(255)},
	})
}

// keyOf is the key of the request, nil when it has none.
func keyOf(c *caller, in any) (*replay.Key, error) {
	sent := c.idempotencyKeys
	if c.op.Method != http.MethodPost || len(sent) == 0 {
		return nil, nil
	}
	text := sent[0]
	if len(sent) > 1 {
		text = "" // which is no key
	}
	request, err := json.Marshal([]any{c.op.OperationID, c.url.Path, c.url.RawQuery, in})
	if err != nil {
		return nil, fmt.Errorf("read the input of %s: %w", c.op.OperationID, err)
	}
	credential := "" // an API key may see less than its user has been answered
	if c.Key != nil {
		credential = strconv.FormatInt(c.Key.ID, 10)
	}
	if c.Support != nil {
		credential = c.Support.SessionID.String()
	}
	key, err := replay.NewKey(c.ID, credential, text, request)
	if err != nil {
		return nil, err
	}
	return &key, nil
}

// once does the work, unless the caller's Idempotency-Key says that it has been
// done: then it answers as then. All of it is in one transaction.
func once[I, O any](ctx context.Context, tx pgx.Tx, c *caller, in *I, work func() (*O, error)) (*O, error) {
	key, err := keyOf(c, in)
	if err != nil {
		return nil, err
	}
	if key == nil {
		return work()
	}
	stored, known, err := key.Claim(ctx, tx)
	if err != nil {
		return nil, err
	}
	if known {
		return replayed[O](c, stored)
	}
	out, err := work()
	if err != nil {
		return nil, err
	}
	return out, keep(ctx, tx, c, key, out)
}

// onceApart is once for work that has transactions of its own. The key is taken
// before it and answered after it; if the node dies in between, the key stands
// for a request of which nobody knows whether it was done (409).
func onceApart[I, O any](ctx context.Context, c *caller, in *I, work func() (*O, error)) (*O, error) {
	key, err := keyOf(c, in)
	if err != nil {
		return nil, err
	}
	if key == nil {
		return work()
	}
	var stored json.RawMessage
	var known bool
	err = c.tenant.Do(ctx, func(db identity.Conn) error {
		var err error
		stored, known, err = key.Claim(ctx, db)
		return err
	})
	if err != nil {
		return nil, err
	}
	if known {
		return replayed[O](c, stored)
	}
	out, err := work()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTimeout) // also when the client has gone
	defer cancel()
	if err != nil {
		return nil, errors.Join(err, c.tenant.Do(ctx, func(db identity.Conn) error { return key.Release(ctx, db) }))
	}
	err = c.tenant.Do(ctx, func(db identity.Conn) error { return keep(ctx, db, c, key, out) })
	if err != nil {
		return nil, err
	}
	return out, nil
}

// answerTimeout bounds what is left to do when the work is done.
const answerTimeout = 5 * time.Second

func keep[O any](ctx context.Context, db pg.Querier, c *caller, key *replay.Key, out *O) error {
	remembered, err := remember(out)
	if err != nil {
		return fmt.Errorf("remember the answer of %s: %w", c.op.OperationID, err)
	}
	return key.Answer(ctx, db, remembered)
}

// remembered is an answer as it is stored: the output of the handler, whose
// fields are the body and headers.
type remembered struct {
	Output  json.RawMessage `json:"output"`
	Omitted []string        `json:"omitted,omitempty"` // names of the secrets that are not there
}

func remember[O any](out *O) (json.RawMessage, error) {
	raw, err := json.Marshal(out)
	if err != nil {
		return nil, err
	}
	var bare *O // a copy: the caller still gets the secrets
	if err := json.Unmarshal(raw, &bare); err != nil {
		return nil, err
	}
	var omitted []string
	takeSecrets(reflect.ValueOf(&bare), &omitted)
	if raw, err = json.Marshal(bare); err != nil {
		return nil, err
	}
	slices.Sort(omitted)
	return json.Marshal(remembered{raw, slices.Compact(omitted)})
}

func replayed[O any](c *caller, stored json.RawMessage) (*O, error) {
	var r remembered
	if err := json.Unmarshal(stored, &r); err != nil {
		return nil, fmt.Errorf("read a remembered answer: %w", err)
	}
	var out *O
	if err := json.Unmarshal(r.Output, &out); err != nil {
		return nil, fmt.Errorf("read the remembered answer of %s: %w", c.op.OperationID, err)
	}
	c.asked = true // of the request that is answered
	c.answer.Set(headerReplayed, "true")
	if len(r.Omitted) > 0 {
		c.answer.Set(headerOmitted, strings.Join(r.Omitted, ", "))
	}
	return out, nil
}

// takeSecrets empties the fields that are tagged secret:"true", at any depth,
// and notes their names.
func takeSecrets(v reflect.Value, names *[]string) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			takeSecrets(v.Elem(), names)
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			takeSecrets(v.Index(i), names)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			switch {
			case !f.IsExported():
			case f.Tag.Get("secret") != "true":
				takeSecrets(v.Field(i), names)
			case !v.Field(i).IsZero():
				v.Field(i).SetZero()
				*names = append(*names, jsonName(f))
			}
		}
	default: // nothing below it
	}
}

// secretNames are names of fields that must say whether they are secrets.
var secretNames = []string{"token", "access", "refresh", "secret", "key", "qr_code", "backup_codes", "password", "otp"}

// undecidedSecrets are the fields of an output that are named like a secret
// and do not say by the tag "secret" whether they are one.
func undecidedSecrets(t reflect.Type, seen map[reflect.Type]bool) []string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || seen[t] {
		return nil
	}
	seen[t] = true
	var undecided []string
	for f := range t.Fields() {
		if slices.Contains(secretNames, jsonName(f)) && f.Tag.Get("secret") == "" {
			undecided = append(undecided, t.String()+"."+f.Name)
		}
		undecided = append(undecided, undecidedSecrets(f.Type, seen)...)
	}
	return undecided
}

func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

// replayable documents that the operation takes an Idempotency-Key if it is a
// POST, and refuses one that does not say what of its answer is secret.
func replayable[O any](s *server, o *operation) {
	if o.Method != post {
		return
	}
	documentKey(&o.Operation)
	if undecided := undecidedSecrets(reflect.TypeFor[O](), map[reflect.Type]bool{}); len(undecided) > 0 {
		s.undeclared = append(s.undeclared, fmt.Errorf(`operation %s answers with %s: tag what is secret with secret:"true", the rest with secret:"false"`,
			o.OperationID, strings.Join(undecided, ", ")))
	}
}
