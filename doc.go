// Package errand is the Go SDK of Errand, a distributed job queue.
//
// A producer declares a Task, which names a kind of job and the type of its
// payload, and enqueues it through a Client:
//
//	var SendWelcome = errand.NewTask[Welcome]("email.welcome", errand.MaxAttempts(5))
//
//	c, err := errand.Dial("http://localhost:7420")
//	id, err := SendWelcome.Enqueue(ctx, c, Welcome{UserID: 42})
//
// A Worker carries jobs out. It blocks until its context ends and the jobs in
// its hands are done:
//
//	w := &errand.Worker{Client: c, Queues: []string{"mail"}}
//	errand.Handle(w, SendWelcome, func(ctx context.Context, j *errand.Job[Welcome]) error { … })
//	err = w.Run(ctx)
//
// When an enqueue has returned without an error, the job outlives a crash of
// everything. It is carried out at least once; a handler that must not do
// something twice can fence its writes with Job.Token, which only grows.
//
// The Client is the same whether it speaks to a server or holds a whole engine
// in the process: see package embedded.
package errand
