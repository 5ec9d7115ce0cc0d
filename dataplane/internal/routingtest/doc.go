// Package routingtest tests the routing as a whole: several nodes (a directory
// and pools each) in one process, a real control database behind proxies that
// can be cut, tenants on two Postgres servers, clients that ask all the time,
// and one operator who suspends, moves, rotates, deletes, and kills nodes.
//
// What happens is held against a model that is simple enough to be believed:
// for each address, the list of what was published of it, and for each
// database, when its door was open. It promises of every answer:
//
//   - Served means: from the database of the tenant that the address led to at
//     some moment of the request, by that tenant's own route, while that
//     database's door was open. Behind an acknowledged fence nobody is served,
//     by a node that is cut off from the control database neither.
//   - A refusal names a state that the tenant was in at some moment between
//     the version of the table that the node had when it was asked and the end
//     of the request. In particular nobody is told of a suspension, a hold or a
//     deletion that has not been.
//   - A tenant that nobody works on, asked at a node that nobody disturbs, is
//     served, or refused by the state it is or was in: a change of its route, a
//     new password behind it, an eviction, a lost notification cost no request.
//   - What was acknowledged as written is read from then on, and is in the
//     tenant's database at the end, once; what was refused is nowhere; behind
//     the fence of a database nothing is written.
//   - No node ever holds more backends of a server than its part of the budget.
//   - When everything is mended, every node serves every tenant; in the end no
//     goroutine and no backend is left.
//
// Nodes hear of a change later than the operator: what they do until then is
// in the model by the version that a node had when it was asked. That they
// hear of it at all is tested at the end, and after each mended partition.
//
// A run is told by its seed: the operator's and each client's choices follow
// from it. How they interleave does not, so a seed that has failed may need a
// few runs to fail again:
//
//	go test ./internal/routingtest -run TestModelOfTheRouting -seed 7 -steps 20000
//
// There is nothing here but tests.
package routingtest
