package stack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"
)

const (
	// A tenant takes a second; a slow disk and a cold template take more.
	provisionTimeout = 60 * time.Second
	mailTimeout      = 20 * time.Second
	storyPoll        = 50 * time.Millisecond
)

// serveCatchers lets mail and texts end here. They belong to this process:
// nothing is lost with them.
func (s *Stack) serveCatchers(context.Context) error {
	if err := s.serveOn(s.ports.SMTP, s.mail.Serve); err != nil {
		return err
	}
	if err := s.serveHTTP(s.ports.Mail, s.mail.Handler()); err != nil {
		return err
	}
	if err := s.serveOn(s.ports.DNS, s.dns.Serve); err != nil {
		return err
	}
	if err := s.serveHTTP(s.ports.DNSRecords, s.dns.Handler()); err != nil {
		return err
	}
	return s.serveHTTP(s.ports.SMS, s.sms.Handler())
}

func (s *Stack) serveHTTP(port int, handler http.Handler) error {
	return s.serveOn(port, httpServer(handler))
}

func httpServer(handler http.Handler) func(ctx context.Context, listener net.Listener) error {
	return func(ctx context.Context, listener net.Listener) error {
		server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
		stop := context.AfterFunc(ctx, func() { _ = server.Close() })
		defer stop()
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}
}

// ControlAPI speaks to the control plane without a login.
func (s *Stack) ControlAPI() API { return API{Base: "http://" + loopback(s.ports.Control)} }

// TenantAPI speaks to a node for the tenant with the slug.
func (s *Stack) TenantAPI(node int, slug string) API {
	return API{Base: "http://" + loopback(s.ports.Data[node]), Host: host(slug)}
}

func host(slug string) string { return slug + "." + baseDomain }

// OperatorAPI logs the operator in.
func (s *Stack) OperatorAPI(ctx context.Context) (API, error) {
	api := s.ControlAPI()
	answer, err := s.operatorLogin(ctx)
	if err != nil {
		return api, err
	}
	var session struct {
		AccessToken string `json:"access_token"`
	}
	if answer.Status != http.StatusOK {
		return api, fmt.Errorf("the operator cannot log in (%d): %s", answer.Status, answer.Body)
	}
	if err := answer.Into(&session); err != nil {
		return api, err
	}
	api.Token = session.AccessToken
	return api, nil
}

func (s *Stack) operatorLogin(ctx context.Context) (Answer, error) {
	return s.ControlAPI().Call(ctx, http.MethodPost, "/v1/auth/login",
		map[string]string{"email": s.secrets.Operator.Email, "password": s.secrets.Operator.Password})
}

// ensureOperator makes the first operator with the CLI, as a person would: an
// API that let anybody in to make one could not be left open.
func (s *Stack) ensureOperator(ctx context.Context) error {
	answer, err := s.operatorLogin(ctx)
	if err != nil {
		return fmt.Errorf("ask the control plane for the operator: %w", err)
	}
	if answer.Status == http.StatusOK {
		return nil
	}
	env := map[string]string{"OUVIRA_CONTROL_DATABASE_URL": s.controlURL(controlRole, s.secrets.ControlPassword)}
	return s.run(ctx, env, s.secrets.Operator.Password+"\n", cliProgram,
		"operator", "create", "--email", s.secrets.Operator.Email, "--password-stdin")
}

// ensureServers registers the tenant servers with their superuser's address:
// the control plane prepares each server with it and keeps a provisioner's
// credentials only.
func (s *Stack) ensureServers(ctx context.Context) error {
	api, err := s.OperatorAPI(ctx)
	if err != nil {
		return err
	}
	var known struct {
		Items []struct {
			Name string `json:"name"`
		} `json:"items"`
	}
	if err := api.Want(ctx, http.StatusOK, http.MethodGet, "/v1/servers?limit=100", nil, &known); err != nil {
		return fmt.Errorf("list the servers: %w", err)
	}
	names := map[string]bool{}
	for _, item := range known.Items {
		names[item.Name] = true
	}
	for _, part := range []string{PGA, PGB} {
		name := strings.TrimPrefix(part, "pg-")
		if names[name] {
			continue
		}
		body := map[string]any{"name": name, "url": s.databases[part].server.URL(), "capacity": s.options.Capacity}
		if err := api.Want(ctx, http.StatusCreated, http.MethodPost, "/v1/servers", body, nil); err != nil {
			return fmt.Errorf("add the server %s: %w", name, err)
		}
	}
	return nil
}

// ensureLimits raises what one address may do: here everybody has the same one.
// What is counted by account or number stays as it is.
func (s *Stack) ensureLimits(ctx context.Context) error {
	api, err := s.OperatorAPI(ctx)
	if err != nil {
		return err
	}
	const plenty = 100_000
	limits := map[string]int{
		"anonymous_per_address": plenty, "login_per_address": plenty, "otp_send_per_address": plenty, "reset_mail_per_address": plenty,
	}
	if err := api.Want(ctx, http.StatusOK, http.MethodPatch, "/v1/plans/standard", map[string]any{"limits": limits}, nil); err != nil {
		return fmt.Errorf("raise the limits of addresses: %w", err)
	}
	return nil
}

// ensureTenants signs the demo tenants up unless an earlier run did.
func (s *Stack) ensureTenants(ctx context.Context) error {
	if s.options.NoTenants {
		return nil
	}
	var group sync.WaitGroup
	failures := make([]error, len(s.secrets.Tenants))
	for i, tenant := range s.secrets.Tenants {
		group.Go(func() {
			there, err := s.served(ctx, tenant)
			if err == nil && !there {
				s.say("signing up %s", tenant.Slug)
				err = s.SignUp(ctx, tenant)
			}
			if errors.Is(err, errSlugTaken) {
				// A run that was killed has got this far; the operation goes on.
				err = s.awaitLogin(ctx, tenant, provisionTimeout)
			}
			if err != nil {
				failures[i] = fmt.Errorf("the tenant %s: %w", tenant.Slug, err)
			}
		})
	}
	group.Wait()
	return errors.Join(failures...)
}

// served asks a node by logging the owner in: an unknown host is 404, and a
// wrong password means that somebody changed it, so the tenant is there.
func (s *Stack) served(ctx context.Context, tenant Tenant) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, mailTimeout)
	defer cancel()
	var there bool
	err := poll(ctx, storyPoll, "an answer for the tenant", func(ctx context.Context) (bool, string, error) {
		answer, err := s.login(ctx, tenant)
		there = answer.Status != http.StatusNotFound
		return answer.Status < http.StatusInternalServerError, answer.String(), err
	})
	return there, err
}

func (s *Stack) login(ctx context.Context, tenant Tenant) (Answer, error) {
	return s.TenantAPI(0, tenant.Slug).Call(ctx, http.MethodPost, "/auth/login",
		map[string]string{"identifier": tenant.OwnerEmail, "password": tenant.OwnerPassword})
}

// SignUp takes a tenant the way a customer goes: sign up, read the code in the
// mail, verify it, wait until the tenant is active, log in at the data plane.
func (s *Stack) SignUp(ctx context.Context, tenant Tenant) error {
	api := s.ControlAPI()
	var signup struct {
		ID string `json:"id"`
	}
	asked := time.Now()
	body := map[string]string{
		"company_name": tenant.Name, "slug": tenant.Slug, "full_name": tenant.OwnerName,
		"email": tenant.OwnerEmail, "password": tenant.OwnerPassword,
	}
	answer, err := api.Call(ctx, http.MethodPost, "/v1/signups", body)
	switch {
	case err != nil:
		return err
	case answer.Status == http.StatusConflict:
		return fmt.Errorf("%w: %s", errSlugTaken, answer.Body)
	case answer.Status != http.StatusCreated:
		return fmt.Errorf("the sign-up is answered with %d: %s", answer.Status, answer.Body)
	}
	if err := answer.Into(&signup); err != nil {
		return err
	}
	code, err := s.Code(ctx, tenant.OwnerEmail, asked)
	if err != nil {
		return err
	}
	verify := "/v1/signups/" + signup.ID + "/verify"
	if err := api.Want(ctx, http.StatusAccepted, http.MethodPost, verify, map[string]string{"code": code}, nil); err != nil {
		return err
	}
	if err := s.awaitActive(ctx, signup.ID); err != nil {
		return err
	}
	return s.awaitLogin(ctx, tenant, mailTimeout)
}

// errSlugTaken: the tenant was signed up before.
var errSlugTaken = errors.New("the slug is taken")

// awaitLogin waits until the owner can log in at the data plane.
func (s *Stack) awaitLogin(ctx context.Context, tenant Tenant, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return poll(ctx, storyPoll, "the first login at the data plane", func(ctx context.Context) (bool, string, error) {
		answer, err := s.login(ctx, tenant)
		if err == nil && answer.Status == http.StatusUnauthorized {
			return false, "", fmt.Errorf("the owner cannot log in: %s", answer.Body)
		}
		return answer.Status == http.StatusOK, answer.String(), err
	})
}

func (s *Stack) awaitActive(ctx context.Context, signup string) error {
	ctx, cancel := context.WithTimeout(ctx, provisionTimeout)
	defer cancel()
	return poll(ctx, storyPoll, "the tenant to become active", func(ctx context.Context) (bool, string, error) {
		var state struct {
			Status string `json:"status"`
			Reason string `json:"reason"`
		}
		if err := s.ControlAPI().Want(ctx, http.StatusOK, http.MethodGet, "/v1/signups/"+signup, nil, &state); err != nil {
			return false, "", err
		}
		if state.Status == "failed" || state.Status == "expired" {
			return false, "", fmt.Errorf("the sign-up %s: %s", state.Status, state.Reason)
		}
		return state.Status == "active", strings.TrimSpace(state.Status + " " + state.Reason), nil
	})
}

// codeLine is a code alone on a line.
var codeLine = regexp.MustCompile(`(?m)^[ \t]*([0-9]{6})[ \t]*\r?$`)

// Code waits for a mail to the address that came after the moment and carries a
// six-digit code.
func (s *Stack) Code(ctx context.Context, address string, after time.Time) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, mailTimeout)
	defer cancel()
	code := ""
	err := poll(ctx, storyPoll, "the mail with the code", func(context.Context) (bool, string, error) {
		for _, message := range s.mail.Messages() {
			if message.Created.Before(after) || !strings.EqualFold(recipient(message.To), address) {
				continue
			}
			if match := codeLine.FindStringSubmatch(message.Text); match != nil {
				code = match[1]
				return true, "", nil
			}
		}
		return false, "", nil
	})
	return code, err
}
