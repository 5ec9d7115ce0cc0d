package pg_test

import (
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
)

// A uuid.UUID is sent as before wherever it can stand, and as its 16 bytes
// where it is one.
func TestSendUUIDs(t *testing.T) {
	t.Parallel()
	plain, sending := open(t, testdb.New(t, empty)), open(t, testdb.New(t, empty))
	pg.SendUUIDs(sending.TypeMap())
	id, none := uuid.New(), (*uuid.UUID)(nil)
	for _, conn := range []*pgx.Conn{plain, sending} {
		for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
			var one, pointed, nullable uuid.UUID
			var missing *uuid.UUID
			var text string
			err := conn.QueryRow(t.Context(), "SELECT $1::uuid, $2::uuid, $3::uuid, $4::text, $5::uuid", mode,
				id, &id, none, id, uuid.NullUUID{UUID: id, Valid: true}).Scan(&one, &pointed, &missing, &text, &nullable)
			if err != nil || one != id || pointed != id || missing != nil || text != id.String() || nullable != id {
				t.Errorf("%v: %v %v %v %s %v: %v", mode, one, pointed, missing, text, nullable, err)
			}
		}
		var many []uuid.UUID
		sent := []uuid.UUID{id, uuid.Nil, uuid.New()}
		if err := conn.QueryRow(t.Context(), "SELECT $1::uuid[]", sent).Scan(&many); err != nil || !slices.Equal(many, sent) {
			t.Errorf("%v: %v", many, err)
		}
	}
}

// BenchmarkSendUUID is what a parameter costs with and without SendUUIDs.
func BenchmarkSendUUID(b *testing.B) {
	id, sending := uuid.New(), pgtype.NewMap()
	pg.SendUUIDs(sending)
	for name, types := range map[string]*pgtype.Map{"plain": pgtype.NewMap(), "sending": sending} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				encode(b, types, id)
			}
		})
	}
}

func encode(tb testing.TB, types *pgtype.Map, id uuid.UUID) {
	tb.Helper()
	var room [64]byte
	if sent, err := types.Encode(pgtype.UUIDOID, pgtype.BinaryFormatCode, id, room[:0]); err != nil || string(sent) != string(id[:]) {
		tb.Errorf("%x: %v", sent, err)
	}
}
