package problem

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/ouvira/ouvira/shared/fault"
)

// maxFieldErrors bounds the answer to a request that is wrong everywhere.
const maxFieldErrors = 32

// invalid makes one fault of huma's list of what is wrong with the fields.
func invalid(errs []error) *fault.Error {
	f := fault.Invalid("Some fields are not right. See errors for each of them.")
	for _, err := range errs {
		var d *huma.ErrorDetail
		if !errors.As(err, &d) {
			continue
		}
		if r := refusalOf(d.Message); r != nil {
			return fault.Invalid(r.Message).Code(r.Code)
		}
		field, code, message := explain(d)
		f.OnField(field, code, message)
	}
	slices.SortFunc(f.Fields, func(a, b fault.Field) int {
		return strings.Compare(a.Field+"\x00"+a.Code, b.Field+"\x00"+b.Code)
	})
	f.Fields = f.Fields[:min(len(f.Fields), maxFieldErrors)]
	if len(f.Fields) == 1 {
		f.Message = f.Fields[0].Message
		if f.Fields[0].Field != "" {
			f.Message = "The field " + f.Fields[0].Field + " is not right: " + lowerFirst(f.Fields[0].Message)
		}
	}
	return f
}

// rule recognises one of huma's messages. Messages that are made from the
// schema alone are kept; those that may quote the value are replaced.
type rule struct {
	prefix, code string
	message      string // empty: keep what follows "expected "
}

var rules = []rule{
	{"unexpected property", "unknown_field", "There is no such field."},
	{"unknown query parameter", "unknown_field", "There is no such parameter."},
	{"required ", "required", "This parameter is required."},
	{"expected string to be RFC 5322 email", "email", "This is not an email address."},
	{"expected string to be RFC 3339 date-time", "date_time", "This is not a time as in 2026-01-31T08:30:00Z."},
	{"expected string to be RFC 3339 date", "date", "This is not a date as in 2026-01-31."},
	{"expected string to be RFC 4122 uuid", "uuid", "This is not a UUID."},
	{"invalid value: invalid UUID", "uuid", "This is not a UUID."},
	{"expected string to be RFC 3986 uri", "uri", "This is not a URL."},
	{"expected string to match pattern", "pattern", "This is not in the expected form."},
	{"expected string to be ", "format", "This is not in the expected form."},
	{"expected duration", "format", "This is not a duration."},
	{"expected boolean", "type", "This must be true or false."},
	{"expected integer", "type", "This must be a whole number."},
	{"invalid integer", "type", "This must be a whole number."},
	{"expected number >", "range", ""},
	{"expected number <", "range", ""},
	{"expected number to be", "range", ""},
	{"expected number", "type", "This must be a number."},
	{"invalid float", "type", "This must be a number."},
	{"expected string", "type", "This must be a string."},
	{"expected array length", "length", ""},
	{"expected array items", "unique", "No item may be there twice."},
	{"expected array", "type", "This must be a list."},
	{"expected object with", "length", ""},
	{"expected object", "type", "This must be an object."},
	{"expected length >= 1", "required", "This must not be empty."},
	{"expected length", "length", ""},
	{"expected value to be one of", "choice", ""},
}

var (
	missing = regexp.MustCompile(`^expected required property (\S+) to be present$`)
	// plainField is what a field may look like to be named in an answer: the
	// names of unknown fields come from the client, and are not repeated when
	// they could be something else.
	plainField = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.\-\[\]]{0,127}$`)
)

// explain gives the field, the code and the sentence for one of huma's details.
func explain(d *huma.ErrorDetail) (field, code, message string) {
	field = fieldOf(d.Location)
	if m := missing.FindStringSubmatch(d.Message); m != nil {
		if field != "" {
			field += "."
		}
		return field + m[1], "required", "This field is required."
	}
	for _, r := range rules {
		if !strings.HasPrefix(d.Message, r.prefix) {
			continue
		}
		if r.message == "" {
			return field, r.code, "Expected " + strings.TrimPrefix(d.Message, "expected ") + "."
		}
		return field, r.code, r.message
	}
	return field, "invalid", "This value is not valid."
}

// fieldOf strips where the field was ("body.", "query.", "path.", "header.").
func fieldOf(location string) string {
	_, field, found := strings.Cut(location, ".")
	if !found || !plainField.MatchString(field) {
		return ""
	}
	return field
}

func lowerFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}
