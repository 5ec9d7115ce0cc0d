module github.com/ouvira/ouvira/deploy

go 1.26.0

require github.com/ouvira/ouvira/shared v0.0.0

replace github.com/ouvira/ouvira/shared => ../shared
