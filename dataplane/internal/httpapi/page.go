package httpapi

import (
	"net/url"
	"strconv"
)

const (
	defaultPageSize = 20
	maxPageSize     = 100
)

// PageInput is what every list takes. A page size over the largest gets the
// largest. It is exported for huma, which passes over embedded fields that are
// not.
type PageInput struct {
	Page     int32 `query:"page" minimum:"1" maximum:"1000000" default:"1"`
	PageSize int32 `query:"page_size" minimum:"1" maximum:"1000000" default:"20" doc:"At most 100."`
}

func (p PageInput) size() int32 { return min(p.PageSize, maxPageSize) }

func (p PageInput) window() (limit, offset int32) { return p.size(), (p.Page - 1) * p.size() }

// Page is what every list answers.
type Page[T any] struct {
	Count    int64   `json:"count"`
	Next     *string `json:"next"`
	Previous *string `json:"previous"`
	Results  []T     `json:"results"`
}

// pageOf is a page of a list; its links keep the filters of the request.
func pageOf[T any](s *server, sc *scope, in PageInput, count int64, results []T) Page[T] {
	page := Page[T]{Count: count, Results: results}
	link := func(number int32) *string {
		query := sc.url.Query()
		query.Set("page", strconv.Itoa(int(number)))
		if in.size() == defaultPageSize {
			query.Del("page_size")
		} else {
			query.Set("page_size", strconv.Itoa(int(in.size())))
		}
		link := url.URL{Scheme: s.Scheme, Host: sc.host, Path: sc.url.Path, RawQuery: query.Encode()}
		address := link.String()
		return &address
	}
	if int64(in.Page)*int64(in.size()) < count {
		page.Next = link(in.Page + 1)
	}
	if in.Page > 1 {
		page.Previous = link(in.Page - 1)
	}
	return page
}
