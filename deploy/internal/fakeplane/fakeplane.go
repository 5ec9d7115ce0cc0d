// Package fakeplane is the smallest pretence of Ouvira's programs that a stack
// can be tested with: they take the same commands and environment, really use
// the control database and the mail server they are given, and keep what they
// know in three tables. A test links its own binary under the programs' names
// and calls [Main] from TestMain.
package fakeplane

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/smtp"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Programs are the names under which a test has to link its binary.
var Programs = []string{"controlplane", "dataplane", "ouvira"}

// Main plays the program whose name the process has, or returns false.
func Main() bool {
	play, ok := map[string]func(context.Context, []string) error{
		"controlplane": controlplane, "dataplane": dataplane, "ouvira": cli,
	}[filepath.Base(os.Args[0])]
	if !ok {
		return false
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	err := play(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return true
}

func option(arguments []string, name string) string {
	for i, argument := range arguments {
		if argument == name && i+1 < len(arguments) {
			return arguments[i+1]
		}
	}
	return ""
}

func controlplane(ctx context.Context, arguments []string) error {
	switch arguments[0] {
	case "keys":
		return os.WriteFile(option(arguments, "--control-key-file"), []byte("control key"), 0o600)
	case "migrate":
		return migrate(ctx, option(arguments, "--bootstrap-url"))
	case "serve":
		return serveControl(ctx)
	case "worker":
		return serve(ctx, os.Getenv("OUVIRA_INTERNAL_LISTEN"), http.NewServeMux())
	default:
		return errors.New("unknown command")
	}
}

// migrate makes the roles and the database that the two URLs name.
func migrate(ctx context.Context, superuser string) error {
	conn, err := pgx.Connect(ctx, superuser)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	database := ""
	for _, variable := range []string{"OUVIRA_CONTROL_DATABASE_URL", "OUVIRA_NODE_DATABASE_URL"} {
		wanted, err := url.Parse(os.Getenv(variable))
		if err != nil {
			return err
		}
		password, _ := wanted.User.Password()
		database = strings.TrimPrefix(wanted.Path, "/")
		// Exists after the first run.
		_, _ = conn.Exec(ctx, "CREATE ROLE "+wanted.User.Username())
		if _, err := conn.Exec(ctx, fmt.Sprintf("ALTER ROLE %s LOGIN PASSWORD '%s'", wanted.User.Username(), password)); err != nil {
			return err
		}
	}
	// Exists after the first run.
	_, _ = conn.Exec(ctx, "CREATE DATABASE "+database)
	inside, err := url.Parse(superuser)
	if err != nil {
		return err
	}
	inside.Path = "/" + database
	target, err := pgx.Connect(ctx, inside.String())
	if err != nil {
		return err
	}
	defer target.Close(ctx)
	_, err = target.Exec(ctx, `
		CREATE TABLE IF NOT EXISTS operators (email text PRIMARY KEY, password text);
		CREATE TABLE IF NOT EXISTS servers (name text PRIMARY KEY, url text);
		CREATE TABLE IF NOT EXISTS signups (id serial PRIMARY KEY, slug text UNIQUE, email text, password text, active boolean DEFAULT false);
		GRANT ALL ON ALL TABLES IN SCHEMA public TO ouvira_control;
		GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO ouvira_control;
		GRANT SELECT ON signups TO ouvira_node;`)
	return err
}

const code = "482913"

func serveControl(ctx context.Context) error {
	pool, err := pgxpool.New(ctx, os.Getenv("OUVIRA_CONTROL_DATABASE_URL"))
	if err != nil {
		return err
	}
	defer pool.Close()
	if os.Getenv("OUVIRA_DATA_KEY_FILE") != "" {
		return errors.New("the control plane was told of the data plane's key")
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/auth/login", func(w http.ResponseWriter, r *http.Request) {
		in := read(r)
		if count(r, pool, "SELECT count(*) FROM operators WHERE email = $1 AND password = $2", in["email"], in["password"]) == 0 {
			write(w, http.StatusUnauthorized, "no")
			return
		}
		write(w, http.StatusOK, map[string]any{"access_token": "operator", "expires_in": 60})
	})
	mux.HandleFunc("GET /v1/servers", func(w http.ResponseWriter, r *http.Request) {
		items := []map[string]string{}
		rows, err := pool.Query(r.Context(), "SELECT name FROM servers")
		if err != nil {
			write(w, http.StatusInternalServerError, err.Error())
			return
		}
		names, _ := pgx.CollectRows(rows, pgx.RowTo[string])
		for _, name := range names {
			items = append(items, map[string]string{"name": name})
		}
		write(w, http.StatusOK, map[string]any{"items": items})
	})
	mux.HandleFunc("POST /v1/servers", func(w http.ResponseWriter, r *http.Request) {
		in := read(r)
		insert(w, r, pool, "INSERT INTO servers VALUES ($1, $2)", in["name"], in["url"])
	})
	mux.HandleFunc("PATCH /v1/plans/standard", func(w http.ResponseWriter, _ *http.Request) { write(w, http.StatusOK, map[string]any{}) })
	mux.HandleFunc("POST /v1/signups", func(w http.ResponseWriter, r *http.Request) {
		in := read(r)
		mail := fmt.Sprintf("To: %s\r\nSubject: Your code\r\n\r\nYour code:\r\n\r\n%s\r\n", in["email"], code)
		server := os.Getenv("EMAIL_HOST") + ":" + os.Getenv("EMAIL_PORT")
		if err := smtp.SendMail(server, nil, "no-reply@ouvira.example", []string{in["email"]}, []byte(mail)); err != nil {
			write(w, http.StatusInternalServerError, err.Error())
			return
		}
		insert(w, r, pool, "INSERT INTO signups (slug, email, password) VALUES ($1, $2, $3)", in["slug"], in["email"], in["password"])
	})
	mux.HandleFunc("POST /v1/signups/{id}/verify", func(w http.ResponseWriter, r *http.Request) {
		if read(r)["code"] != code {
			write(w, http.StatusUnprocessableEntity, "wrong code")
			return
		}
		if _, err := pool.Exec(r.Context(), "UPDATE signups SET active = true WHERE slug = $1", r.PathValue("id")); err != nil {
			write(w, http.StatusInternalServerError, err.Error())
			return
		}
		write(w, http.StatusAccepted, map[string]any{})
	})
	mux.HandleFunc("GET /v1/signups/{id}", func(w http.ResponseWriter, r *http.Request) {
		status := "pending_verification"
		if count(r, pool, "SELECT count(*) FROM signups WHERE slug = $1 AND active", r.PathValue("id")) == 1 {
			status = "active"
		}
		write(w, http.StatusOK, map[string]any{"status": status})
	})
	go func() { _ = serve(ctx, os.Getenv("OUVIRA_INTERNAL_LISTEN"), http.NewServeMux()) }()
	return serve(ctx, os.Getenv("OUVIRA_LISTEN"), mux)
}

func dataplane(ctx context.Context, arguments []string) error {
	if arguments[0] == "keys" {
		return errors.Join(
			os.WriteFile(option(arguments, "--data-key-file"), []byte("data key"), 0o644),
			os.WriteFile(option(arguments, "--public-key-file"), []byte("public key"), 0o644))
	}
	pool, err := pgxpool.New(ctx, os.Getenv("OUVIRA_NODE_DATABASE_URL"))
	if err != nil {
		return err
	}
	defer pool.Close()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /auth/login", func(w http.ResponseWriter, r *http.Request) {
		slug, _, _ := strings.Cut(r.Host, ".")
		if count(r, pool, "SELECT count(*) FROM signups WHERE slug = $1 AND active", slug) == 0 {
			write(w, http.StatusNotFound, "no such host")
			return
		}
		in := read(r)
		if count(r, pool, "SELECT count(*) FROM signups WHERE slug = $1 AND email = $2 AND password = $3", slug, in["identifier"], in["password"]) == 0 {
			write(w, http.StatusUnauthorized, "no")
			return
		}
		write(w, http.StatusOK, map[string]any{"tokens": map[string]any{"access": "a"}})
	})
	go func() { _ = serve(ctx, os.Getenv("OUVIRA_INTERNAL_LISTEN"), http.NewServeMux()) }()
	return serve(ctx, os.Getenv("OUVIRA_LISTEN"), mux)
}

func cli(ctx context.Context, arguments []string) error {
	password, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, os.Getenv("OUVIRA_CONTROL_DATABASE_URL"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, "INSERT INTO operators VALUES ($1, $2)", option(arguments, "--email"), strings.TrimSpace(password))
	return err
}

func serve(ctx context.Context, address string, mux *http.ServeMux) error {
	mux.HandleFunc("GET /readyz", func(http.ResponseWriter, *http.Request) {})
	server := &http.Server{Addr: address, Handler: mux}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func read(r *http.Request) map[string]string {
	var body map[string]any
	_ = json.NewDecoder(r.Body).Decode(&body)
	out := map[string]string{}
	for name, value := range body {
		if text, ok := value.(string); ok {
			out[name] = text
		}
	}
	return out
}

func write(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// count panics when it cannot know, which the server answers by closing the
// connection: "none" would be a lie.
func count(r *http.Request, pool *pgxpool.Pool, sql string, arguments ...any) int {
	var n int
	if err := pool.QueryRow(r.Context(), sql, arguments...).Scan(&n); err != nil {
		panic(err)
	}
	return n
}

// insert answers with the first value as the id of what was made.
func insert(w http.ResponseWriter, r *http.Request, pool *pgxpool.Pool, sql string, arguments ...any) {
	if _, err := pool.Exec(r.Context(), sql, arguments...); err != nil {
		write(w, http.StatusConflict, err.Error())
		return
	}
	write(w, http.StatusCreated, map[string]any{"id": arguments[0]})
}
