package operator_test

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	otp "github.com/pquerna/otp/totp"

	"github.com/ouvira/ouvira/controlplane/internal/controltest"
	"github.com/ouvira/ouvira/controlplane/internal/operator"
	"github.com/ouvira/ouvira/shared/fault"
)

// clock of a service: it stands still until it is moved.
type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Time          { return time.Unix(c.at.Load(), 0) }
func (c *clock) advance(d time.Duration) { c.at.Add(int64(d.Seconds())) }
func (c *clock) code(t *testing.T, secret string) string {
	t.Helper()
	code, err := otp.GenerateCode(secret, c.now())
	if err != nil {
		t.Fatal(err)
	}
	return code
}

// enrolled is an operator with a second factor, and its app.
type enrolled struct {
	*operator.Service

	clock   *clock
	control controltest.Control
	account operator.Operator
	who     operator.Principal
	app     operator.Enrolment
}

func newEnrolled(t *testing.T) *enrolled {
	t.Helper()
	s, c := newService(t)
	e := &enrolled{Service: s, clock: &clock{}, control: c, account: create(t, s, "ada@ouvira.test")}
	e.clock.at.Store(time.Now().Unix())
	s.Now = e.clock.now
	e.who = e.signIn(t, "")
	var err error
	if e.app, err = s.EnrolFactor(t.Context(), actor, e.who); err != nil {
		t.Fatal(err)
	}
	if len(e.app.BackupCodes) != 10 || !strings.HasPrefix(e.app.URL, "otpauth://totp/") {
		t.Errorf("enrolled with %d codes, %s", len(e.app.BackupCodes), e.app.URL)
	}
	if _, err := e.login(""); err != nil {
		t.Errorf("a factor that waits for its first code asks for one: %v", err)
	}
	if err := s.ConfirmFactor(t.Context(), actor, e.who, "000000"); !fault.Is(err, fault.KindInvalid) {
		t.Errorf("a wrong first code: %v", err)
	}
	if err := s.ConfirmFactor(t.Context(), actor, e.who, e.clock.code(t, e.app.Secret)); err != nil {
		t.Fatal(err)
	}
	return e
}

func (e *enrolled) login(code string) (operator.Tokens, error) {
	return e.Login(background, operator.Credentials{Email: "ada@ouvira.test", Password: password, Code: code})
}

func (e *enrolled) signIn(t *testing.T, code string) operator.Principal {
	t.Helper()
	tokens, err := e.login(code)
	if err != nil {
		t.Fatal(err)
	}
	p, err := e.Authenticate(t.Context(), tokens.Access)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// refusedWith tells whether err is a fault with the code.
func refusedWith(err error, code string) bool {
	return err != nil && fault.From(err).EffectiveCode() == code
}

// TestSec21 a code of the app counts once, also when it is shown many times at
// once, and an older one does not count after it.
func TestSec21OperatorsCodesAreNotReplayed(t *testing.T) {
	t.Parallel()
	e := newEnrolled(t)
	if _, err := e.login(e.clock.code(t, e.app.Secret)); !refusedWith(err, "login_refused") {
		t.Errorf("the code that confirmed the factor signs in: %v", err)
	}
	old := e.clock.code(t, e.app.Secret)
	e.clock.advance(time.Minute)
	code := e.clock.code(t, e.app.Secret)
	var won atomic.Int32
	var trying sync.WaitGroup
	for range 3 {
		trying.Go(func() {
			if _, err := e.login(code); err == nil {
				won.Add(1)
			} else if !refusedWith(err, "login_refused") {
				t.Errorf("a replayed code: %v", err)
			}
		})
	}
	trying.Wait()
	if won.Load() != 1 {
		t.Errorf("one code signed in %d times", won.Load())
	}
	if _, err := e.login(old); !refusedWith(err, "login_refused") {
		t.Errorf("an older code: %v", err)
	}
	var secret []byte
	if err := e.control.Pool.QueryRow(t.Context(), "SELECT secret FROM control.operator_factors").Scan(&secret); err != nil || strings.Contains(string(secret), e.app.Secret) {
		t.Errorf("the secret is stored as it is (%v)", err)
	}
}

// The password alone asks for the code and is no failed attempt; wrong codes are,
// and lock the account.
func TestGuessesAtACodeLockTheAccount(t *testing.T) {
	t.Parallel()
	e := newEnrolled(t)
	for range 10 {
		if _, err := e.login(""); !refusedWith(err, "otp_required") {
			t.Fatalf("without a code: %v", err)
		}
	}
	if _, err := e.Login(t.Context(), operator.Credentials{Email: "ada@ouvira.test", Password: "wrong password of mine"}); !refusedWith(err, "login_refused") {
		t.Errorf("a wrong password is told from a missing code: %v", err)
	}
	e.clock.advance(time.Minute)
	var guessing sync.WaitGroup
	for range 10 {
		guessing.Go(func() { _, _ = e.login("000000") })
	}
	guessing.Wait()
	if _, err := e.login(e.clock.code(t, e.app.Secret)); !refusedWith(err, "login_refused") {
		t.Errorf("after ten guesses the right code: %v", err)
	}
	if _, err := e.login(""); !refusedWith(err, "login_refused") {
		t.Errorf("a locked account asks for a code: %v", err)
	}
}

func TestBackupCodesCountOnce(t *testing.T) {
	t.Parallel()
	e := newEnrolled(t)
	first, second := e.app.BackupCodes[0], e.app.BackupCodes[1]
	e.signIn(t, strings.ToLower(strings.ReplaceAll(first, "-", " ")))
	if _, err := e.login(first); !refusedWith(err, "login_refused") {
		t.Errorf("a backup code twice: %v", err)
	}
	codes, err := e.RenewBackupCodes(t.Context(), actor, e.who, operator.Proof{Password: password, Code: second})
	if err != nil || len(codes) != 10 {
		t.Fatalf("%d new codes, %v", len(codes), err)
	}
	if _, err := e.login(e.app.BackupCodes[2]); !refusedWith(err, "login_refused") {
		t.Errorf("a code of the set before: %v", err)
	}
	e.signIn(t, codes[0])
	var kept string
	if err := e.control.Pool.QueryRow(t.Context(), "SELECT string_agg(c::text, ' ') FROM control.operator_backup_codes c").Scan(&kept); err != nil || strings.Contains(kept, codes[1]) {
		t.Errorf("backup codes are stored as they are (%v)", err)
	}
}

func TestDisablingWantsBoth(t *testing.T) {
	t.Parallel()
	e := newEnrolled(t)
	if _, err := e.EnrolFactor(t.Context(), actor, e.who); !refusedWith(err, "second_factor_exists") {
		t.Errorf("enrolling over one that counts: %v", err)
	}
	for name, proof := range map[string]operator.Proof{
		"no code":        {Password: password},
		"a wrong code":   {Password: password, Code: "000000"},
		"wrong password": {Password: "wrong password of mine", Code: e.app.BackupCodes[0]},
	} {
		if err := e.DisableFactor(t.Context(), actor, e.who, proof); !fault.Is(err, fault.KindUnauthenticated) {
			t.Errorf("%s: %v", name, err)
		}
	}
	e.clock.advance(time.Minute)
	if err := e.DisableFactor(t.Context(), actor, e.who, operator.Proof{Password: password, Code: e.clock.code(t, e.app.Secret)}); err != nil {
		t.Fatal(err)
	}
	e.signIn(t, "")
	if err := e.DisableFactor(t.Context(), actor, e.who, operator.Proof{Password: password}); !refusedWith(err, "no_second_factor") {
		t.Errorf("again: %v", err)
	}
}

// Enrolling ends the sessions that began without the factor, and an owner can
// take a lost one away.
func TestSessionsAndTheSecondFactor(t *testing.T) {
	t.Parallel()
	e := newEnrolled(t)
	var others int
	if err := e.control.Pool.QueryRow(t.Context(), "SELECT count(*) FROM control.operator_sessions WHERE revoked_at IS NULL").Scan(&others); err != nil || others != 1 {
		t.Errorf("%d sessions are left (%v)", others, err)
	}
	if err := e.CheckFreshFactor(e.signIn(t, e.app.BackupCodes[0])); err != nil {
		t.Errorf("right after it was shown: %v", err)
	}
	e.who = e.signIn(t, e.app.BackupCodes[1])
	e.clock.advance(16 * time.Minute)
	if err := e.CheckFreshFactor(e.who); !refusedWith(err, "second_factor_required") {
		t.Errorf("after 16 minutes: %v", err)
	}
	if err := e.ResetFactor(t.Context(), actor, e.account.ID); err != nil {
		t.Fatal(err)
	}
	if p := e.signIn(t, ""); p.FactorAt != nil || !refusedWith(e.CheckFreshFactor(p), "second_factor_required") {
		t.Errorf("without a factor one was shown at %v", p.FactorAt)
	}
}
