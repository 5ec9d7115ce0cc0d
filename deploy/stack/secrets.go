package stack

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// secrets are what the first run made up and the next ones need again.
type secrets struct {
	ControlPassword string         `json:"control_password"`
	NodePassword    string         `json:"node_password"`
	Operator        Operator       `json:"operator"`
	Tenants         []Tenant       `json:"tenants"`
	Ports           map[string]int `json:"postgres_ports"`
}

// Operator who may sign in at the control plane.
type Operator struct {
	Email    string `json:"email"`
	Password string `json:"password"`
}

// Tenant of the demo with the owner who signed it up.
type Tenant struct {
	Slug          string `json:"slug"`
	Name          string `json:"name"`
	OwnerName     string `json:"owner_name"`
	OwnerEmail    string `json:"owner_email"`
	OwnerPassword string `json:"owner_password"`
}

func newSecrets() secrets {
	tenant := func(slug, name, owner string) Tenant {
		return Tenant{Slug: slug, Name: name, OwnerName: owner, OwnerEmail: "owner@" + slug + ".example", OwnerPassword: passphrase()}
	}
	return secrets{
		ControlPassword: rand.Text(),
		NodePassword:    rand.Text(),
		Operator:        Operator{Email: "operator@ouvira.example", Password: passphrase()},
		Tenants:         []Tenant{tenant("acme", "Acme", "Owner of Acme"), tenant("globex", "Globex", "Owner of Globex")},
	}
}

// passphrase holds to any sensible policy and is copied in one click.
func passphrase() string {
	text := rand.Text()
	return text[:5] + "-" + text[5:10] + "-" + text[10:15] + "-a7"
}

func (s *Stack) secretsPath() string { return filepath.Join(s.options.State, "secrets.json") }

func (s *Stack) loadSecrets() error {
	text, err := os.ReadFile(s.secretsPath())
	switch {
	case errors.Is(err, os.ErrNotExist):
		s.secrets = newSecrets()
	case err != nil:
		return fmt.Errorf("the state of an earlier run is not readable: %w. Run as the user who made it, or choose another folder with OUVIRA_STATE", err)
	default:
		if err := json.Unmarshal(text, &s.secrets); err != nil {
			return fmt.Errorf("%s is damaged: %w. Forget the stack with `make reset`", s.secretsPath(), err)
		}
	}
	if s.secrets.Ports == nil {
		s.secrets.Ports = map[string]int{}
	}
	return s.saveSecrets()
}

func (s *Stack) saveSecrets() error { return writeJSON(s.secretsPath(), s.secrets) }

// writeJSON replaces a file at once, readable by its owner only: a reader sees
// the old text or the new one, also when we are killed in between.
func writeJSON(path string, content any) error {
	text, err := json.MarshalIndent(content, "", "  ")
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*")
	if err != nil {
		return unwritable(err)
	}
	defer os.Remove(file.Name())
	_, err = file.Write(append(text, '\n'))
	if err = errors.Join(err, file.Close()); err != nil {
		return unwritable(err)
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return unwritable(err)
	}
	return nil
}

func unwritable(err error) error {
	return fmt.Errorf("the state folder cannot be written: %w. Make it writable, or choose another with OUVIRA_STATE", err)
}
