module github.com/ouvira/ouvira/controlplane

go 1.26.0

require (
	github.com/ouvira/ouvira/migrations v0.0.0
	github.com/ouvira/ouvira/shared v0.0.0
)

replace github.com/ouvira/ouvira/shared => ../shared

replace github.com/ouvira/ouvira/migrations => ../migrations
