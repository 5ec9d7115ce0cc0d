// Package config reads a binary's settings from the environment into one
// struct, and is strict about it: what cannot be right ends the process at the
// start, with a sentence that names the variable and says what to do.
//
// A struct for Load has fields tagged `env:"OUVIRA_…"` and, where there is
// one, `envDefault:"…"`; exported structs may be embedded. `secret:"true"` keeps a
// value out of every output, `secret:"url"` the password in it. A method
// Validate() error is called at the end.
//
// A variable that is set but empty counts as not set. Refused values are never
// repeated: they may be secrets in the wrong place.
package config

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/caarlos0/env/v11"
)

// prefix of our own variables: unknown ones are refused.
const prefix = "OUVIRA_"

// Environment is where the process runs, and so how strict it is.
type Environment string

// The environments.
const (
	Local      Environment = "local"
	Staging    Environment = "staging"
	Production Environment = "production"
)

// UnmarshalText refuses other names.
func (e *Environment) UnmarshalText(text []byte) error {
	switch v := Environment(text); v {
	case Local, Staging, Production:
		*e = v
		return nil
	}
	return errors.New("must be local, staging or production")
}

// Common are the settings of every binary: embed it.
type Common struct {
	Env      Environment `env:"OUVIRA_ENV" envDefault:"local"`
	LogLevel string      `env:"OUVIRA_LOG_LEVEL" envDefault:"info"`
}

// Validator is a struct that checks itself after it was read.
type Validator interface{ Validate() error }

// Load reads the settings of T from the process's environment.
func Load[T any]() (T, error) { return LoadFrom[T](os.Environ()) }

// LoadFrom reads the settings of T from a list of NAME=value.
func LoadFrom[T any](environ []string) (T, error) {
	var settings T
	values, err := collect(environ)
	if err != nil {
		return settings, err
	}
	fields := fieldsOf(reflect.TypeFor[T]())
	if err := env.ParseWithOptions(&settings, env.Options{Environment: values}); err != nil {
		return settings, explain(err, fields)
	}
	if v, ok := any(&settings).(Validator); ok {
		if err := v.Validate(); err != nil {
			return settings, err
		}
	}
	return settings, nil
}

// collect makes a map of the environment, with aliases resolved and unknown
// names of ours refused.
func collect(environ []string) (map[string]string, error) {
	values := make(map[string]string, len(environ))
	var errs []error
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, prefix) && !KnownName(name) {
			errs = append(errs, fmt.Errorf("%s: there is no such setting. Did you mean %s?", name, nearest(name)))
		}
		if value == "" {
			delete(values, name)
			continue
		}
		values[name] = value
	}
	for alias, name := range aliases {
		value, set := values[alias]
		if !set {
			continue
		}
		if ours, both := values[name]; both && ours != value {
			errs = append(errs, fmt.Errorf("%s and its other name %s have different values: unset one", name, alias))
		}
		values[name] = value
	}
	return values, join(errs)
}

// explain turns the library's errors, which name struct fields and repeat
// values, into sentences about variables.
func explain(err error, fields []field) error {
	var all env.AggregateError
	if !errors.As(err, &all) {
		return errors.New("the settings could not be read")
	}
	var errs []error
	for _, e := range all.Errors {
		var (
			parse   env.ParseError
			missing env.VarIsNotSetError
			empty   env.EmptyVarError
		)
		switch {
		case errors.As(e, &parse):
			name := nameOfField(fields, parse.Name)
			errs = append(errs, fmt.Errorf("%s: %s", name, expectation(parse)))
		case errors.As(e, &missing):
			errs = append(errs, Missing(missing.Key))
		case errors.As(e, &empty):
			errs = append(errs, Missing(empty.Key))
		default:
			errs = append(errs, errors.New("the settings could not be read"))
		}
	}
	return join(errs)
}

// Missing says that a variable must be set, and what it is for.
func Missing(name string) error {
	return fmt.Errorf("%s is not set. %s", name, docOf(name))
}

func expectation(e env.ParseError) string {
	if e.Type == reflect.TypeFor[Environment]() {
		return "must be local, staging or production"
	}
	if e.Type.String() == "time.Duration" {
		return "must be a duration such as 30s or 5m"
	}
	switch e.Type.Kind() {
	case reflect.Bool:
		return "must be true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "must be a whole number in range"
	case reflect.Float32, reflect.Float64:
		return "must be a number"
	default:
		return "is not in the expected form"
	}
}

// join is errors.Join with the errors in a stable order.
func join(errs []error) error {
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

// nearest is the known name with the smallest edit distance.
func nearest(name string) string {
	best, bestDistance := "", 1<<30
	for _, s := range Known {
		if d := distance(name, s.Name); d < bestDistance {
			best, bestDistance = s.Name, d
		}
	}
	return best
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		previous := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := previous
			if a[i] != b[j] {
				cost++
			}
			previous = row[j+1]
			row[j+1] = min(cost, row[j]+1, previous+1)
		}
	}
	return row[len(b)]
}
