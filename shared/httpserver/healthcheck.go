package httpserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// CheckReady asks the internal listener of a process on this host whether it is
// ready: for container runtimes, whose images have no curl. address is the
// listener's own setting (host:port or :port); the error says what is not ready.
func CheckReady(ctx context.Context, address string) error {
	if strings.HasPrefix(address, ":") {
		address = "127.0.0.1" + address
	}
	address = strings.Replace(address, "0.0.0.0:", "127.0.0.1:", 1)
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/readyz", http.NoBody)
	if err != nil {
		return errors.New("OUVIRA_INTERNAL_LISTEN: must be host:port or :port")
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("the process does not answer on %s", address)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		reason, _ := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
		return fmt.Errorf("not ready: %s", strings.TrimSpace(string(reason)))
	}
	return nil
}
