package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/errandhq/errand/internal/auth"
)

func newToken(a *app) *cobra.Command {
	var role, appendTo string
	create := &cobra.Command{
		Use: "new NAME", Short: "Make a bearer token", Args: exactArgs(1),
		Long: `Make a bearer token for a caller: a secret for the caller, and a line with its
hash for the file that 'errand serve --auth-token-file' reads.

Roles: producer hands jobs in, worker carries them out, viewer sees everything,
operator may do everything. Several are joined by commas.

With -o json: {"name","role","token","line"}. The token is shown this once.`,
		RunE: func(_ *cobra.Command, args []string) error {
			roles, err := auth.ParseRole(role)
			if err != nil {
				return err
			}
			token := auth.NewToken()
			line, err := token.Line(args[0], roles)
			if err != nil {
				return usageError("%w", err)
			}
			if appendTo != "" {
				if err := appendLine(appendTo, line); err != nil {
					return err
				}
			}
			answer := struct {
				Name  string `json:"name"`
				Role  string `json:"role"`
				Token string `json:"token"`
				Line  string `json:"line"`
			}{args[0], roles.String(), token.Reveal(), line}
			return a.out.value(answer, func() {
				a.out.linef("%s", token.Reveal())
				if appendTo != "" {
					a.warnf("%s is now admitted by %s; keep the token in a file of mode 600", args[0], appendTo)
					return
				}
				a.warnf("keep it in a file of mode 600, and add this line to the server's token file:")
				fmt.Fprintln(a.stderr, line)
			})
		},
	}
	create.Flags().StringVar(&role, "role", "producer", "producer, worker, viewer, operator, monitor, or several with commas between")
	create.Flags().StringVar(&appendTo, "append", "", "add the line to this token file, made with mode 600 if it is not there")
	return group("token", "Make tokens for callers", create)
}

func appendLine(path, line string) (err error) {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	if st, err := f.Stat(); err == nil && st.Size() > 0 {
		last := make([]byte, 1)
		if _, err := f.ReadAt(last, st.Size()-1); err == nil && last[0] != '\n' {
			line = "\n" + line
		}
	}
	_, err = fmt.Fprintln(f, line)
	return err
}
