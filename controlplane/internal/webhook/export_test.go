package webhook

// CheckURL and Public are what the fuzzer and the tables test.
var (
	CheckURL = checkURL
	Public   = public
)
