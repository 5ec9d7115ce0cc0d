//go:build !unix

package budget

import (
	"errors"
	"os"
)

// lock cannot be had here: the process begins as a new instance each time.
func lock(string) (*os.File, error) { return nil, errors.ErrUnsupported }
