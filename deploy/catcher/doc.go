// Package catcher stands in for the world that Ouvira sends to: a mail server
// that delivers to nobody, Twilio's message endpoint that sends no message, and a
// name server for the domains of customers.
// What arrives is kept in memory and read over HTTP, by people and by tests.
//
// Mail is read with Mailpit's paths and field names, so that what works here
// works with Mailpit's image in compose. Messages are posted in Twilio's form.
//
// Nothing is kept for ever: each catcher holds the newest messages up to a
// number, and a message up to a size.
package catcher
