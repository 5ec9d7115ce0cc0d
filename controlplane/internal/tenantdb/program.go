package tenantdb

import (
	"context"
	"errors"
	"net/url"
	"strings"
)

// WithEnv is WithURL for Postgres' own programs: it calls fn with the environment
// that leads them into the database. It holds the password: hand it on, do not keep
// or log it.
func (w *Work) WithEnv(ctx context.Context, database, role string, fn func(env []string) error) error {
	return w.WithURL(ctx, database, role, inEnvironment(fn))
}

func inEnvironment(fn func(env []string) error) func(address string) error {
	return func(address string) error {
		env, err := environment(address)
		if err != nil {
			return err
		}
		return fn(env)
	}
}

// environment says with libpq's variables what the address says.
func environment(address string) ([]string, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, errors.New("the server's address cannot be used") // url.Error repeats it
	}
	password, _ := u.User.Password()
	env := []string{
		"PGHOST=" + u.Hostname(), "PGPORT=" + u.Port(), "PGUSER=" + u.User.Username(), "PGPASSWORD=" + password,
		"PGDATABASE=" + strings.TrimPrefix(u.Path, "/"), "PGCONNECT_TIMEOUT=5",
	}
	named := map[string]string{"sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT", "application_name": "PGAPPNAME"}
	var options []string
	q := u.Query()
	for name, values := range q {
		if variable, ok := named[name]; ok {
			env = append(env, variable+"="+values[0])
			continue
		}
		// What is left are settings of the session.
		escaped := strings.NewReplacer(`\`, `\\`, ` `, `\ `).Replace(values[0])
		options = append(options, "-c "+name+"="+escaped)
	}
	if q.Get("sslmode") == "verify-full" && q.Get("sslrootcert") == "" {
		env = append(env, "PGSSLROOTCERT=system") // libpq has no default that works
	}
	return append(env, "PGOPTIONS="+strings.Join(options, " ")), nil
}
