package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// app is one invocation: where it reads and writes, and the flags that all
// verbs share.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	out            *printer // set before a verb runs

	output    string // text or json
	server    string
	tokenFile string
	ca        string
}

const rootLong = `Errand is a distributed job queue: producers hand jobs in, workers carry them
out, and a job that was accepted is never lost.

  errand serve                                   start a server here
  errand enqueue email.welcome '{"user":42}'     hand a job in
  errand work --exec ./send-mail                 carry jobs out, one process each
  errand dev                                     all of it at once, to play with

The server is named by --server or ERRAND_SERVER, a token by --token-file or
ERRAND_TOKEN_FILE. With -o json every answer is one JSON document on standard
output; messages for people go to standard error.

` + exitHelp

// newRoot builds the tree of verbs.
func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:           "errand",
		Short:         "A distributed job queue",
		Long:          rootLong,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return unknownVerb(cmd, args[0])
		},
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.prepare() },
	}
	a.sharedFlags(root.PersistentFlags())
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &exitError{code: exitUsage, err: err, hint: flagHint(cmd, err)}
	})
	root.SetHelpCommand(&cobra.Command{Use: "help", Short: "Show the help of a verb", RunE: func(_ *cobra.Command, args []string) error {
		return help(root, args)
	}})
	root.AddCommand(
		newServe(a), newDev(a), newBench(a),
		newEnqueue(a), newWork(a),
		newJobs(a), newQueues(a), newDead(a), newSessions(a), newStats(a), newInsights(a),
		newMigrate(a), newDoctor(a), newVerify(a), newToken(a), newVersion(a), newCompletion(a),
	)
	return root
}

func (a *app) sharedFlags(f *pflag.FlagSet) {
	f.StringVarP(&a.output, "output", "o", "text", "what to print: text or json")
	f.StringVar(&a.server, "server", envOr("ERRAND_SERVER", "http://127.0.0.1:7420"),
		"address of the server, or several with commas between (ERRAND_SERVER)")
	f.StringVar(&a.tokenFile, "token-file", os.Getenv("ERRAND_TOKEN_FILE"), "file that holds the bearer token (ERRAND_TOKEN_FILE)")
	f.StringVar(&a.ca, "ca", os.Getenv("ERRAND_CA"), "file with the certificate authority of the server, PEM (ERRAND_CA)")
	// The default of a flag may come from the environment; help should not.
	f.Lookup("server").DefValue = "http://127.0.0.1:7420"
	f.Lookup("token-file").DefValue = ""
	f.Lookup("ca").DefValue = ""
}

// prepare checks the shared flags, before any verb.
func (a *app) prepare() error {
	if a.output != "text" && a.output != "json" {
		return usageError("--output is %q; it may be text or json", a.output)
	}
	a.out = newPrinter(a.stdout, a.output == "json")
	return nil
}

func (a *app) flush() {
	if a.out != nil {
		a.out.flush()
	}
}

// warnf tells people something, on standard error.
func (a *app) warnf(format string, args ...any) {
	fmt.Fprintf(a.stderr, "errand: "+format+"\n", args...)
}

// group makes a verb that has only verbs under it.
func group(use, short string, verbs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownVerb(cmd, args[0])
			}
			var names []string
			for _, sub := range cmd.Commands() {
				names = append(names, sub.Name())
			}
			return usageError("%s needs a verb: %s", cmd.CommandPath(), strings.Join(names, ", "))
		}}
	cmd.AddCommand(verbs...)
	return cmd
}

func unknownVerb(cmd *cobra.Command, name string) error {
	err := &exitError{code: exitUsage, err: fmt.Errorf("unknown command %q for %q", name, cmd.CommandPath())}
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(name); len(near) > 0 {
		err.hint = fmt.Sprintf("Did you mean '%s %s'?", cmd.CommandPath(), near[0])
	}
	return err
}

func help(root *cobra.Command, args []string) error {
	cmd, rest, err := root.Find(args)
	if err != nil || len(rest) > 0 {
		return usageError("no help for %q", strings.Join(args, " "))
	}
	return cmd.Help()
}

// flagHint names the flag that was probably meant.
func flagHint(cmd *cobra.Command, err error) string {
	_, wrong, found := strings.Cut(err.Error(), "unknown flag: --")
	if !found {
		return fmt.Sprintf("Run '%s --help' for usage.", cmd.CommandPath())
	}
	best, distance := "", 3
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if d := editDistance(wrong, f.Name); d < distance || (strings.HasPrefix(f.Name, wrong) && best == "") {
			best, distance = f.Name, d
		}
	})
	if best == "" {
		return fmt.Sprintf("Run '%s --help' for its flags.", cmd.CommandPath())
	}
	return fmt.Sprintf("Did you mean --%s? Run '%s --help' for usage.", best, cmd.CommandPath())
}

// editDistance is the number of single-byte edits between two short names.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

// noArgs, exactArgs and argsBetween are cobra's checks with our exit status.
func noArgs(cmd *cobra.Command, args []string) error { return argsBetween(0, 0)(cmd, args) }

func exactArgs(n int) cobra.PositionalArgs { return argsBetween(n, n) }

func argsBetween(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) > most && most == 0:
			return usageError("unexpected argument %q", args[0])
		case len(args) > most:
			return usageError("unexpected argument %q: '%s' takes at most %d", args[most], cmd.UseLine(), most)
		case len(args) < least:
			return usageError("argument missing: usage is '%s'", cmd.UseLine())
		}
		return nil
	}
}

func envOr(name, other string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return other
}
