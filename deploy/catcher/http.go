package catcher

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
)

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// decode reads a small JSON body; an empty one is no error.
func decode(r *http.Request, into any) error {
	err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(into)
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// number reads a count from the query; nonsense is the fallback.
func number(r *http.Request, name string, fallback int) int {
	n, err := strconv.Atoi(r.URL.Query().Get(name))
	if err != nil || n < 0 {
		return fallback
	}
	return n
}
