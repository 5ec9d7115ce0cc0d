package httpapi

// body is an answer that is nothing but its document.
type body[T any] struct {
	Body T
}

// List is a page of a list.
type List[T any] struct {
	Items      []T     `json:"items" nullable:"false"`
	NextCursor *string `json:"next_cursor" doc:"Ask with ?cursor= for the next page; null at the end."`
}

func listed[T any](items []T, next string) *body[List[T]] {
	l := List[T]{Items: items}
	if next != "" {
		l.NextCursor = &next
	}
	return &body[List[T]]{l}
}

// Paging is how every list is asked for.
type Paging struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"100" default:"20" doc:"How many items a page has."`
	Cursor string `query:"cursor" maxLength:"1024" doc:"next_cursor of the page before."`
}

// newestFirst names the order of the lists that have only one.
const newestFirst = "-id"
