package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// mayBeEmpty annotates flags for which an empty value says something.
const mayBeEmpty = "may-be-empty"

// spoken refuses what is empty where something has to stand, which is what a script sends
// whose variable is not set: `restore acme --backup ID --as ""` would replace the database
// that it was to leave alone, and `tenant show ""` would ask for the list.
func spoken(cmd *cobra.Command, args []string) error {
	for i, arg := range args {
		if strings.TrimSpace(arg) == "" {
			return fmt.Errorf("argument %d is empty: is a variable not set?", i+1)
		}
	}
	var err error
	cmd.Flags().Visit(func(f *pflag.Flag) {
		_, allowed := f.Annotations[mayBeEmpty]
		if err == nil && !allowed && f.Value.Type() == "string" && strings.TrimSpace(f.Value.String()) == "" {
			err = fmt.Errorf("--%s is empty: give it a value, or leave it out", f.Name)
		}
	})
	return err
}

// wrongFlag says what is wrong with a flag, without the words of the parser.
func wrongFlag(cmd *cobra.Command, err error) error {
	if invalid, ok := errors.AsType[*pflag.InvalidValueError](err); ok && invalid.GetFlag().Value.Type() == "int" {
		err = fmt.Errorf("--%s must be a whole number", invalid.GetFlag().Name)
	}
	return usageError{fmt.Errorf("%w\n  see: %s --help", err, cmd.CommandPath())}
}

// unknownCommand is a word that a group of commands does not know.
func unknownCommand(group *cobra.Command, word string) error {
	text := fmt.Sprintf("unknown command %q for %q", word, group.CommandPath())
	if group.SuggestionsMinimumDistance <= 0 {
		// As cobra has it where it suggests by itself, but of short words not any other.
		group.SuggestionsMinimumDistance = min(2, max(1, len(word)-2))
	}
	if like := group.SuggestionsFor(word); len(like) > 0 {
		text += "; did you mean " + strings.Join(like, " or ") + "?"
	}
	return errors.New(text)
}
