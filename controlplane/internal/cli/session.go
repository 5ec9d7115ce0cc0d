package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// session is a saved login.
type session struct {
	URL     string `json:"url"`
	Email   string `json:"email"`
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`

	keep func() error
}

// sessions is the file of saved logins, the latest last.
type sessions struct {
	path string
	List []*session `json:"sessions"`
}

func (a *app) sessions() (*sessions, error) {
	dir, err := a.ConfigDir()
	if err != nil {
		return &sessions{}, nil //nolint:nilerr // without a home there are no saved logins
	}
	s := &sessions{path: filepath.Join(dir, "ouvira", "sessions.json")}
	raw, err := os.ReadFile(s.path)
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the saved logins: %w", err)
	}
	if err := json.Unmarshal(raw, s); err != nil {
		return nil, fmt.Errorf("the saved logins in %s are damaged: remove the file and log in again", s.path)
	}
	for _, one := range s.List {
		one.keep = s.save
	}
	return s, nil
}

func (s *sessions) last() string {
	if len(s.List) == 0 {
		return ""
	}
	return s.List[len(s.List)-1].URL
}

func (s *sessions) of(url string) *session {
	for _, one := range s.List {
		if one.URL == url {
			return one
		}
	}
	return nil
}

func (s *sessions) without(url string) {
	kept := s.List[:0]
	for _, one := range s.List {
		if one.URL != url {
			kept = append(kept, one)
		}
	}
	s.List = kept
}

// save replaces the file as a whole: a crash leaves the old one or the new.
func (s *sessions) save() error {
	if s.path == "" {
		return errors.New("there is no home directory to save the login in: set HOME, or use OUVIRA_TOKEN")
	}
	raw, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("save the login: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(s.path), 0o700); err != nil {
		return fmt.Errorf("save the login: %w", err)
	}
	written, err := os.CreateTemp(filepath.Dir(s.path), "sessions-*") // mode 0600
	if err != nil {
		return fmt.Errorf("save the login: %w", err)
	}
	_, err = written.Write(append(raw, '\n'))
	if err := errors.Join(err, written.Close()); err != nil {
		return fmt.Errorf("save the login: %w", err)
	}
	if err := os.Rename(written.Name(), s.path); err != nil {
		return fmt.Errorf("save the login: %w", err)
	}
	return nil
}

type tokens struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
}

// refresh exchanges the saved refresh token; both new tokens are saved before
// they are used.
func (c *client) refresh(ctx context.Context) error {
	var t tokens
	raw, err := c.once(ctx, http.MethodPost, "/v1/auth/refresh", "", map[string]string{"refresh_token": c.session.Refresh})
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, &t); err != nil {
		return fmt.Errorf("read the new tokens: %w", err)
	}
	c.session.Access, c.session.Refresh, c.token = t.Access, t.Refresh, t.Access
	return c.session.keep()
}

// prove shows the credentials to path, and the code of the second factor too when
// the other side asks for it: the one that was given, or one that a person types.
func (a *app) prove(ctx context.Context, c *client, path string, body map[string]string, out any) error {
	raw, err := c.once(ctx, http.MethodPost, path, "", body)
	var refused *apiError
	if errors.As(err, &refused) && refused.Problem.Code == "otp_required" && body["otp"] == "" {
		if a.ReadSecret == nil {
			return usageError{errors.New("this account has a second factor: send its code with --otp")}
		}
		if body["otp"], err = a.ReadSecret("Code of your second factor: "); err != nil {
			return err
		}
		raw, err = c.once(ctx, http.MethodPost, path, "", body)
	}
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("the control plane's answer is not what this release expects: %w", err)
	}
	return nil
}

// confirm makes the saved login fresh.
func (a *app) confirm(ctx context.Context, c *client) error {
	fmt.Fprintln(a.Err, "This wants a fresh login: show who you are once more.")
	password, err := a.ReadSecret("Password of " + c.session.Email + ": ")
	if err != nil {
		return err
	}
	return a.prove(ctx, c, "/v1/auth/confirm", map[string]string{"password": password}, nil)
}

func (a *app) login() *cobra.Command {
	var email, code string
	var fromStdin bool
	c := &cobra.Command{
		Use: "login", Short: "Sign in and remember it", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			password, err := a.secret("Password: ", fromStdin)
			if err != nil {
				return err
			}
			client.token, client.session = "", nil
			var t tokens
			body := map[string]string{"email": email, "password": password}
			if code != "" {
				body["otp"] = code
			}
			if err := a.prove(cmd.Context(), client, "/v1/auth/login", body, &t); err != nil {
				return err
			}
			saved, err := a.sessions()
			if err != nil {
				return err
			}
			saved.without(client.base)
			saved.List = append(saved.List, &session{URL: client.base, Email: email, Access: t.Access, Refresh: t.Refresh})
			if err := saved.save(); err != nil {
				return err
			}
			fmt.Fprintf(a.Err, "Signed in to %s as %s.\n", client.base, email)
			return nil
		},
	}
	c.Flags().StringVar(&email, "email", "", "address of the operator")
	c.Flags().StringVar(&code, "otp", "", "code of the second factor, or a backup code (default: asked for where there is one)")
	c.Flags().BoolVar(&fromStdin, "password-stdin", false, "read the password from standard input")
	_ = c.MarkFlagRequired("email")
	return c
}

func (a *app) logout() *cobra.Command {
	return &cobra.Command{
		Use: "logout", Short: "End the saved login", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			saved, err := a.sessions()
			if err != nil {
				return err
			}
			if client.session != nil {
				// Forgotten here whatever the other side says.
				_ = client.call(cmd.Context(), http.MethodPost, "/v1/auth/logout", nil, nil)
			}
			saved.without(client.base)
			return saved.save()
		},
	}
}

// secret asks for a secret, or reads the first line of standard input.
func (a *app) secret(prompt string, fromStdin bool) (string, error) {
	if !fromStdin {
		if a.ReadSecret == nil {
			return "", usageError{errors.New("there is no terminal to ask on: use --password-stdin")}
		}
		return a.ReadSecret(prompt)
	}
	line, err := bufio.NewReader(a.In).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read standard input: %w", err)
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return "", usageError{errors.New("standard input is empty: the secret must be its first line")}
	}
	return line, nil
}

// terminalSecret is nil when standard input is no terminal.
func terminalSecret() func(string) (string, error) {
	fd := int(os.Stdin.Fd())
	if !term.IsTerminal(fd) {
		return nil
	}
	return func(prompt string) (string, error) {
		fmt.Fprint(os.Stderr, prompt)
		raw, err := term.ReadPassword(fd)
		fmt.Fprintln(os.Stderr)
		if err != nil {
			return "", fmt.Errorf("read the terminal: %w", err)
		}
		return string(raw), nil
	}
}
