package server

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

var namePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Add makes a Postgres server known: it prepares it when the URL is a
// superuser's, checks that it is prepared when the URL is the provisioner's,
// and publishes it. also runs in the same transaction (audit) and may be nil.
//
// Errors: fault.Invalid naming the field (url: unreachable, refused, too old,
// not a superuser, the control database's own server, not prepared;
// capacity.connections: more than the server offers; name; tls), fault.Conflict
// for a name or a server that is known already.
func (s *Service) Add(ctx context.Context, in New, also func(tx pgx.Tx, s Server) error) (Server, error) {
	given, err := s.validate(in)
	if err != nil {
		return Server{}, err
	}
	return pg.InTxValue(ctx, s.db, func(tx pgx.Tx) (Server, error) {
		// One at a time: preparing the same server twice would give the
		// provisioner a second password and lock the first entry out.
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended('ouvira.server.add', 0))"); err != nil {
			return Server{}, fmt.Errorf("lock the servers: %w", err)
		}
		found, err := inspect(ctx, given)
		if err != nil {
			return Server{}, err
		}
		if err := refuse(ctx, tx, in, found); err != nil {
			return Server{}, err
		}
		provisioner, mover, err := s.prepare(ctx, given, found, credentials{})
		if err != nil {
			return Server{}, err
		}
		id, err := s.insert(ctx, tx, in, provisioner, found)
		if err != nil {
			return Server{}, err
		}
		if err := s.storeMover(ctx, tx, id, mover); err != nil {
			return Server{}, err
		}
		added, err := getServer(ctx, tx, id)
		if err != nil {
			return Server{}, err
		}
		if also != nil {
			if err := also(tx, added); err != nil {
				return Server{}, err
			}
		}
		return added, publish(ctx, tx, id)
	})
}

// invalid is a refusal of one field.
func invalid(field, code, message string) *fault.Error {
	return fault.Invalid("The server cannot be used: "+lowerFirst(message)).OnField(field, code, message)
}

func (s *Service) validate(in New) (address, error) {
	if !namePattern.MatchString(in.Name) {
		return address{}, invalid("name", "invalid", "Use 1 to 63 lower-case letters, digits and hyphens, without a hyphen at the ends.")
	}
	if in.Capacity.Databases < 1 {
		return address{}, invalid("capacity.databases", "too_small", "Say how many tenant databases the server may hold, at least 1.")
	}
	if in.Capacity.Connections < 1 {
		return address{}, invalid("capacity.connections", "too_small", "Say how many connections Ouvira may hold to the server, at least 1.")
	}
	if in.Capacity.StorageMB < 0 {
		return address{}, invalid("capacity.storage_mb", "too_small", "Say how many megabytes the databases may take together; 0 says nothing.")
	}
	a, err := parse(in.URL)
	if err != nil {
		return address{}, err
	}
	if in.TLS.Mode != "" {
		a.tls.Mode = in.TLS.Mode
	}
	a.tls.CA = in.TLS.CA
	switch a.tls.Mode {
	case "disable", "require", "verify-ca", "verify-full":
	case "":
		return address{}, invalid("tls.mode", "required", "Say how to connect: disable, require, verify-ca or verify-full (or put sslmode into the URL).")
	default:
		return address{}, invalid("tls.mode", "invalid", "Use disable, require, verify-ca or verify-full.")
	}
	if s.options.Production && a.tls.Mode != "verify-full" {
		return address{}, invalid("tls.mode", "insecure", "In production a server is only reached with TLS mode verify-full.")
	}
	return a, nil
}

// parse takes the URL apart. The database in it does not matter.
func parse(raw string) (address, error) {
	u, err := url.Parse(raw)
	if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") || u.Hostname() == "" ||
		strings.Contains(u.Host, ",") || u.User.Username() == "" {
		return address{}, invalid("url", "invalid", "Give the address as postgres://user:password@host:port/postgres, with one host.")
	}
	a := address{host: u.Hostname(), user: u.User.Username(), port: 5432, tls: TLS{Mode: u.Query().Get("sslmode")}}
	a.password, _ = u.User.Password()
	if p := u.Port(); p != "" {
		a.port, err = strconv.Atoi(p)
		if err != nil || a.port < 1 || a.port > 65535 {
			return address{}, invalid("url", "invalid", "The port must be a number from 1 to 65535.")
		}
	}
	return a, nil
}

// facts are what a server says about itself.
type facts struct {
	systemIdentifier int64
	version          int
	user             string
	superuser        bool
	offered          int // connections that are nobody's reserve
	inRecovery       bool
}

func inspect(ctx context.Context, a address) (facts, error) {
	conn, err := connect(ctx, a)
	if err != nil {
		return facts{}, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var f facts
	err = conn.QueryRow(ctx, `
		SELECT (SELECT system_identifier FROM pg_control_system()),
		       current_setting('server_version_num')::int, current_user,
		       (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
		       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
		           - COALESCE(current_setting('reserved_connections', true)::int, 0),
		       pg_is_in_recovery()`).
		Scan(&f.systemIdentifier, &f.version, &f.user, &f.superuser, &f.offered, &f.inRecovery)
	if err != nil {
		return facts{}, invalid("url", "unusable", "The server answers, but does not say what it is. Is it Postgres?").Because(err)
	}
	return f, nil
}

func connect(ctx context.Context, a address) (*pgx.Conn, error) {
	conn, err := (&Access{address: a}).Connect(ctx, Target{ApplicationName: "ouvira/server"})
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return nil, invalid("tls.ca", "untrusted", "The server's certificate cannot be verified: give the CA that has signed it, and a host name that it is for.").Because(err)
	}
	if err != nil {
		return nil, invalid("url", "unreachable", upperFirst(pg.Explain(err))+".").Because(err)
	}
	return conn, nil
}

// refuse checks all that can be checked before the server is touched.
func refuse(ctx context.Context, tx pgx.Tx, in New, f facts) error {
	if f.version < pg.OldestVersion {
		return invalid("url", "too_old", fmt.Sprintf("Postgres %d is too old: Ouvira runs on 15 and later.", f.version/10000))
	}
	if f.inRecovery {
		return invalid("url", "read_only", "This is a replica: give the address of the primary.")
	}
	var own int64
	if err := tx.QueryRow(ctx, "SELECT system_identifier FROM node.clock()").Scan(&own); err != nil {
		return fmt.Errorf("identify the control database: %w", err)
	}
	if own == f.systemIdentifier {
		return invalid("url", "control_server", "This server holds the control database: tenants need a server of their own.")
	}
	var name string
	err := tx.QueryRow(ctx, "SELECT name FROM control.servers WHERE system_identifier = $1", f.systemIdentifier).Scan(&name)
	if err == nil {
		return fault.Conflict("This Postgres server is known already, as “"+name+"”.").Code("server_known").
			OnField("url", "taken", "This Postgres server is known already.")
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("look for the server: %w", err)
	}
	if f.superuser == (f.user == migrations.ProvisionerRole) {
		return invalid("url", "not_superuser", "The user is neither a superuser nor ouvira_provisioner: give a superuser's URL once, and Ouvira prepares the server and keeps only its own credential.")
	}
	if in.Capacity.Connections > f.offered {
		return invalid("capacity.connections", "too_large", fmt.Sprintf("The server offers %d connections (max_connections less the reserved ones): lower the capacity or raise max_connections.", f.offered))
	}
	return nil
}

// credentials are the passwords of our roles on a server; empty ones are made.
type credentials struct{ provisioner, mover string }

// prepare returns the address by which the provisioner connects from now on, and
// the mover's password, which only a superuser can have set.
func (s *Service) prepare(ctx context.Context, given address, f facts, known credentials) (provisioner address, mover string, err error) {
	provisioner = given
	if f.superuser {
		provisioner.user, provisioner.password = migrations.ProvisionerRole, cmp.Or(known.provisioner, pg.NewPassword())
		mover = cmp.Or(known.mover, pg.NewPassword())
		if err := prepareAs(ctx, given, provisioner.password, mover); err != nil {
			return address{}, "", err
		}
	}
	conn, err := connect(ctx, provisioner)
	if err != nil {
		return address{}, "", err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	missing, err := Unprepared(ctx, conn)
	if err != nil {
		return address{}, "", invalid("url", "not_prepared", "The server could not be checked.").Because(err)
	}
	if len(missing) > 0 {
		return address{}, "", invalid("url", "not_prepared", "The server is not prepared ("+strings.Join(missing, "; ")+"): add it once with a superuser's URL.")
	}
	return provisioner, mover, nil
}

// prepareAs prepares the server as the superuser of the address.
func prepareAs(ctx context.Context, superuser address, provisioner, mover string) error {
	var verifiers [2]string
	for i, password := range []string{provisioner, mover} {
		var err error
		if verifiers[i], err = pg.SCRAMVerifier(password); err != nil {
			return err
		}
	}
	err := superuser.with(Target{ApplicationName: "ouvira/server"}, func(dsn string) error {
		if err := migrations.PrepareServer(ctx, dsn, verifiers[0]); err != nil {
			return err
		}
		return migrations.PrepareMoves(ctx, dsn, verifiers[1])
	})
	if err != nil {
		return invalid("url", "not_prepared", "The server could not be prepared; its log says why.").Because(err)
	}
	return nil
}

// Unprepared says what a server lacks to hold tenants, asked as its
// provisioner.
func Unprepared(ctx context.Context, q pg.Querier) ([]string, error) {
	rows, err := q.Query(ctx, `
		SELECT what FROM (VALUES
		    ('the role ouvira_owner is missing', EXISTS (SELECT FROM pg_roles WHERE rolname = 'ouvira_owner')),
		    ('the role ouvira_app is missing', EXISTS (SELECT FROM pg_roles WHERE rolname = 'ouvira_app')),
		    ('ouvira_provisioner may not create databases and roles',
		        EXISTS (SELECT FROM pg_roles WHERE rolname = current_user AND rolcreatedb AND rolcreaterole)),
		    ('ouvira_provisioner is no member of ouvira_owner',
		        EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid JOIN pg_roles u ON u.oid = m.member
		                WHERE g.rolname = 'ouvira_owner' AND u.rolname = current_user)),
		    ('the database ouvira_base is missing or not closed',
		        EXISTS (SELECT FROM pg_database WHERE datname = 'ouvira_base' AND datistemplate AND NOT datallowconn)),
		    ('everybody may connect to postgres or template1',
		        NOT EXISTS (SELECT FROM pg_database d, aclexplode(COALESCE(d.datacl, acldefault('d', d.datdba))) a
		                    WHERE d.datname IN ('postgres', 'template1') AND a.grantee = 0 AND a.privilege_type = 'CONNECT'))
		) AS t (what, ok) WHERE NOT ok`)
	if err != nil {
		return nil, fmt.Errorf("check whether the server is prepared: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

func (s *Service) insert(ctx context.Context, tx pgx.Tx, in New, a address, f facts) (uuid.UUID, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return uuid.Nil, fmt.Errorf("make a server id: %w", err)
	}
	sealed, err := s.key.Seal([]byte(a.password), CredentialContext(id))
	if err != nil {
		return uuid.Nil, fmt.Errorf("seal the server's credential: %w", err)
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO control.servers (id, name, host, port, tls_mode, tls_ca, region, max_databases, max_connections,
		                             system_identifier, postgres_version, provisioner_credential, max_storage_mb)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`,
		id, in.Name, a.host, a.port, a.tls.Mode, a.tls.CA, in.Region, in.Capacity.Databases, in.Capacity.Connections,
		f.systemIdentifier, f.version, sealed, in.Capacity.StorageMB)
	switch pg.Constraint(err) {
	case "servers_name_key":
		return uuid.Nil, fault.Conflict("A server of this name exists already.").Code("name_taken").
			OnField("name", "taken", "A server of this name exists already.")
	case "servers_system_identifier_key":
		return uuid.Nil, fault.Conflict("This Postgres server is known already.").Code("server_known").
			OnField("url", "taken", "This Postgres server is known already.")
	}
	if err != nil {
		return uuid.Nil, fmt.Errorf("write the server: %w", err)
	}
	// Whoever hears of it first would otherwise take all of it, and hold it until it
	// has heard of the others; all its life long, if it is killed before.
	_, err = tx.Exec(ctx, `
		INSERT INTO control.shares (server_id, instance_id, granted, open, wanted, most)
		SELECT $1, i.id, 0, 0, 0, $2 FROM control.instances i WHERE i.expelled_at IS NULL`, id, in.Capacity.Connections)
	if err != nil {
		return uuid.Nil, fmt.Errorf("reserve the server's connections for those who live: %w", err)
	}
	return id, nil
}

func upperFirst(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(r)) + s[n:]
}

// lowerFirst leaves names (Postgres, TLS) as they are.
func lowerFirst(s string) string {
	for _, name := range []string{"Postgres", "TLS", "Ouvira"} {
		if strings.HasPrefix(s, name) {
			return s
		}
	}
	r, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToLower(r)) + s[n:]
}
