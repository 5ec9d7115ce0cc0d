package catcher

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

const (
	// keepNames bounds the zone.
	keepNames = 1000
	// maxTXT is what one string of a TXT record can hold.
	maxTXT = 255
)

// DNS is a name server that knows TXT records and nothing else: those that it was
// told. It stands in for the zones of customers, who prove by such records that a
// domain is theirs. Its zero value is ready.
type DNS struct {
	mu   sync.RWMutex
	txts map[string][]string // by canonical name
}

// Record is all TXT records of a name.
type Record struct {
	Name string   `json:"name"`
	TXT  []string `json:"txt"`
}

// Set replaces the records of a name; none take it away.
func (d *DNS) Set(name string, txt ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.txts == nil {
		d.txts = map[string][]string{}
	}
	if len(txt) == 0 {
		delete(d.txts, dns.CanonicalName(name))
		return
	}
	d.txts[dns.CanonicalName(name)] = slices.Clone(txt)
}

func (d *DNS) lookup(name string) []string {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.txts[dns.CanonicalName(name)]
}

// ServeDNS implements dns.Handler.
func (d *DNS) ServeDNS(w dns.ResponseWriter, question *dns.Msg) {
	answer := new(dns.Msg).SetReply(question)
	answer.Authoritative, answer.RecursionAvailable = true, true
	for _, q := range question.Question {
		txt := d.lookup(q.Name)
		if txt == nil {
			answer.Rcode = dns.RcodeNameError
			continue
		}
		if q.Qtype != dns.TypeTXT && q.Qtype != dns.TypeANY {
			continue
		}
		for _, text := range txt {
			answer.Answer = append(answer.Answer, &dns.TXT{
				Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{text},
			})
		}
	}
	if w.LocalAddr().Network() == "udp" {
		answer.Truncate(dns.MinMsgSize)
	}
	_ = w.WriteMsg(answer)
}

// Serve answers on the listener, and by UDP on the same port, until ctx ends.
func (d *DNS) Serve(ctx context.Context, listener net.Listener) error {
	packets, err := net.ListenPacket("udp", listener.Addr().String())
	if err != nil {
		return fmt.Errorf("listen for names by UDP: %w", err)
	}
	servers := []*dns.Server{{Listener: listener, Handler: d}, {PacketConn: packets, Handler: d}}
	ended := make(chan error, len(servers))
	for _, server := range servers {
		go func() { ended <- server.ActivateAndServe() }()
	}
	stop := context.AfterFunc(ctx, func() {
		_ = listener.Close()
		_ = packets.Close()
	})
	defer stop()
	err = errors.Join(<-ended, <-ended)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// Handler takes and lists the records:
//
//	PUT    /records  {"name":"_ouvira.shop.example","txt":["…"]}
//	GET    /records
//	DELETE /records?name=_ouvira.shop.example
func (d *DNS) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /records", d.put)
	mux.HandleFunc("GET /records", func(w http.ResponseWriter, _ *http.Request) {
		d.mu.RLock()
		defer d.mu.RUnlock()
		all := []Record{}
		for name, txt := range d.txts {
			all = append(all, Record{name, txt})
		}
		slices.SortFunc(all, func(a, b Record) int { return strings.Compare(a.Name, b.Name) })
		answer(w, http.StatusOK, all)
	})
	mux.HandleFunc("DELETE /records", func(w http.ResponseWriter, r *http.Request) {
		d.Set(r.URL.Query().Get("name"))
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, "DNS catcher. The TXT records: GET /records, PUT /records {\"name\":…,\"txt\":[…]}")
	})
	return mux
}

func (d *DNS) put(w http.ResponseWriter, r *http.Request) {
	var record Record
	err := decode(r, &record)
	_, valid := dns.IsDomainName(record.Name)
	d.mu.RLock()
	full := len(d.txts) >= keepNames
	d.mu.RUnlock()
	switch {
	case err != nil || !valid || record.Name == "":
		answer(w, http.StatusBadRequest, map[string]string{"error": `Send {"name":"_ouvira.shop.example","txt":["…"]}.`})
	case slices.ContainsFunc(record.TXT, func(s string) bool { return s == "" || len(s) > maxTXT }):
		answer(w, http.StatusBadRequest, map[string]string{"error": "A TXT record has 1 to 255 bytes."})
	case full:
		answer(w, http.StatusInsufficientStorage, map[string]string{"error": "There are too many names. Delete some."})
	default:
		d.Set(record.Name, record.TXT...)
		answer(w, http.StatusOK, record)
	}
}
