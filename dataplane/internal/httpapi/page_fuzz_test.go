package httpapi

import (
	"net/url"
	"strings"
	"testing"
)

// Whatever the query and the sizes, links to other pages lead to the same
// address, ask for a page that there is, and keep the filters.
func FuzzSec34Pages(f *testing.F) {
	f.Add(int32(1), int32(20), int64(0), "")
	f.Add(int32(2), int32(1), int64(3), "page=2&page_size=1&company=7")
	f.Add(int32(1000000), int32(1000000), int64(1)<<62, "page=x&page=y;z&%zz")
	f.Fuzz(func(t *testing.T, page, size int32, count int64, rawQuery string) {
		if page < 1 || page > 1_000_000 || size < 1 || size > 1_000_000 || count < 0 {
			return // refused before
		}
		in := PageInput{Page: page, PageSize: size}
		limit, offset := in.window()
		if limit < 1 || limit > maxPageSize || offset < 0 {
			t.Fatalf("page %d of %d: limit %d, offset %d", page, size, limit, offset)
		}
		sc := &scope{host: "acme.example", url: &url.URL{Path: "/audit/activity-logs", RawQuery: rawQuery}}
		s := &server{Options: Options{Scheme: "https"}}
		p := pageOf(s, sc, in, count, []int{})
		if (p.Next != nil) != (int64(offset)+int64(limit) < count) || (p.Previous != nil) != (page > 1) {
			t.Errorf("page %d of %d: count %d, next %v, previous %v", page, size, count, p.Next, p.Previous)
		}
		for _, link := range []*string{p.Next, p.Previous} {
			if link == nil {
				continue
			}
			u, err := url.Parse(*link)
			if err != nil || u.Scheme != "https" || u.Host != "acme.example" || u.Path != "/audit/activity-logs" || u.Query().Get("page") == "" {
				t.Errorf("a link is %q", *link)
			}
			if strings.ContainsAny(*link, "\r\n ") {
				t.Errorf("a link is %q", *link)
			}
		}
	})
}
