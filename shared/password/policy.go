package password

import (
	_ "embed"
	"fmt"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/ouvira/ouvira/shared/fault"
)

// The policy: length and a blocklist, no composition rules (they make people
// choose worse passwords; NIST SP 800-63B). Who proves a second factor as well
// may do with a shorter one.
const (
	MinRunes                 = 12
	MinRunesWithSecondFactor = 8
	MaxBytes                 = 1024
)

//go:embed common.txt
var commonFile string

// common holds the blocked passwords in their folded form.
var common = sync.OnceValue(func() map[string]struct{} {
	set := make(map[string]struct{})
	for line := range strings.Lines(commonFile) {
		if word := strings.TrimSpace(line); word != "" && !strings.HasPrefix(word, "#") {
			set[fold(word)] = struct{}{}
		}
	}
	return set
})

// CheckPolicy refuses passwords that are too short, too long, or among the
// first that an attacker tries. The fault names the field "password".
func CheckPolicy(pw string) error { return check(pw, MinRunes) }

// CheckPolicyWithSecondFactor is CheckPolicy for the password of somebody who
// has a second factor.
func CheckPolicyWithSecondFactor(pw string) error { return check(pw, MinRunesWithSecondFactor) }

func check(pw string, minRunes int) error {
	switch {
	case len(pw) > MaxBytes:
		return tooLong()
	case !utf8.ValidString(pw):
		return refused("not_text", "The password is not valid UTF-8 text.")
	case utf8.RuneCountInString(pw) < minRunes:
		return refused("too_short", fmt.Sprintf("The password needs at least %d characters. A few words in a row do well.", minRunes))
	case isCommon(pw):
		return refused("too_common", "This password is among the first that are guessed. Choose another one.")
	}
	return nil
}

func tooLong() error {
	return refused("too_long", "The password is longer than 1,024 bytes. Choose a shorter one.")
}

func refused(code, message string) error {
	return fault.Invalid(message).Code("password_policy").OnField("password", code, message)
}

// isCommon looks past what people add to a common password to make it long:
// case, digits and signs at the end, the word twice or more, one letter only.
func isCommon(pw string) bool {
	folded := fold(pw)
	for _, candidate := range []string{folded, strings.TrimRightFunc(folded, notLetter), strings.TrimFunc(folded, notLetter)} {
		if candidate == "" { // digits and signs only
			continue
		}
		if _, ok := common()[period(candidate)]; ok {
			return true
		}
	}
	if _, ok := common()[period(folded)]; ok {
		return true
	}
	return utf8.RuneCountInString(period(folded)) <= 3 || isRun(folded)
}

func fold(s string) string { return strings.ToLower(strings.TrimSpace(s)) }

func notLetter(r rune) bool { return !unicode.IsLetter(r) }

// period is the shortest string that s repeats: "abcabc" gives "abc".
func period(s string) string {
	for n := 1; n <= len(s)/2; n++ {
		if len(s)%n == 0 && strings.Repeat(s[:n], len(s)/n) == s {
			return s[:n]
		}
	}
	return s
}

// isRun tells whether each character follows the one before by the same step:
// "abcdefghijkl", "987654321098" (digits go round).
func isRun(s string) bool {
	runes := []rune(s)
	digits := strings.Trim(s, "0123456789") == ""
	step := runes[1] - runes[0]
	if step != 1 && step != -1 {
		return false
	}
	for i := 1; i < len(runes); i++ {
		got := runes[i] - runes[i-1]
		wraps := digits && (got == 9 || got == -9)
		if got != step && !wraps {
			return false
		}
	}
	return true
}
