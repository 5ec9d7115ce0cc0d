package catcher

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	keepSMS = 1000
	// maxSMSRunes is Twilio's own limit.
	maxSMSRunes = 1600
)

// Text is one short message, with Twilio's field names.
type Text struct {
	SID         string    `json:"sid"`
	AccountSID  string    `json:"account_sid"`
	To          string    `json:"to"`
	From        string    `json:"from"`
	Body        string    `json:"body"`
	Status      string    `json:"status"`
	DateCreated time.Time `json:"date_created"`
}

// SMS is the part of Twilio that Ouvira talks to. Its zero value is ready.
type SMS struct {
	mu    sync.RWMutex
	texts []Text // newest first
}

// Texts are all that are kept, newest first.
func (s *SMS) Texts() []Text {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.texts)
}

// Handler takes messages in Twilio's form and lists them:
//
//	POST   /2010-04-01/Accounts/{sid}/Messages.json
//	GET    /messages?to=+15550100
//	DELETE /messages
func (s *SMS) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /2010-04-01/Accounts/{sid}/Messages.json", s.take)
	mux.HandleFunc("GET /messages", s.list)
	mux.HandleFunc("DELETE /messages", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		s.texts = nil
		s.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, "SMS catcher. The messages: GET /messages?to=")
	})
	return mux
}

func (s *SMS) take(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	account := r.PathValue("sid")
	user, token, ok := r.BasicAuth()
	if !ok || user == "" || token == "" {
		w.Header().Set("WWW-Authenticate", `Basic realm="Twilio API"`)
		refuse(w, http.StatusUnauthorized, 20003, "Authenticate")
		return
	}
	if err := r.ParseForm(); err != nil {
		refuse(w, http.StatusBadRequest, 20001, "The body has to be a form.")
		return
	}
	text := Text{
		SID: "SM" + randomHex(), AccountSID: account,
		To: r.PostForm.Get("To"), From: r.PostForm.Get("From"), Body: r.PostForm.Get("Body"),
		Status: "queued", DateCreated: time.Now().UTC(),
	}
	if text.From == "" {
		text.From = r.PostForm.Get("MessagingServiceSid")
	}
	switch {
	case text.To == "":
		refuse(w, http.StatusBadRequest, 21604, "A 'To' phone number is required.")
		return
	case text.From == "":
		refuse(w, http.StatusBadRequest, 21603, "A 'From' phone number is required.")
		return
	case text.Body == "":
		refuse(w, http.StatusBadRequest, 21602, "Message body is required.")
		return
	case len([]rune(text.Body)) > maxSMSRunes:
		refuse(w, http.StatusBadRequest, 21617, "The concatenated message body exceeds the 1600 character limit.")
		return
	}
	s.mu.Lock()
	s.texts = slices.Insert(s.texts, 0, text)
	s.texts = s.texts[:min(len(s.texts), keepSMS)]
	s.mu.Unlock()
	answer(w, http.StatusCreated, text)
}

func (s *SMS) list(w http.ResponseWriter, r *http.Request) {
	to := bare(r.URL.Query().Get("to"))
	found := slices.DeleteFunc(s.Texts(), func(text Text) bool { return to != "" && bare(text.To) != to })
	answer(w, http.StatusOK, map[string][]Text{"messages": found})
}

// bare leaves out the plus: in a query that nobody escaped it arrives as a
// space.
func bare(number string) string { return strings.Trim(number, "+ ") }

func refuse(w http.ResponseWriter, status, code int, sentence string) {
	answer(w, status, map[string]any{"code": code, "message": sentence, "status": status})
}

func randomHex() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
