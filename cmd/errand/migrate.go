package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/errandhq/errand/internal/config"
)

// migrationView is one step of the schema; applied_at is null while it is pending.
type migrationView struct {
	Name      string     `json:"name"`
	AppliedAt *time.Time `json:"applied_at"`
}

func newMigrate(a *app) *cobra.Command {
	return group("migrate", "Look after the ledger's schema",
		newMigrateUp(a), newMigrateStatus(a), newMigratePrint(a), newMigrateFence(a))
}

// onLedger makes a verb that works on the ledger itself, without a server. It
// finds the ledger as serve does: by flags, environment and file of settings.
func onLedger(cmd *cobra.Command, run func(ctx context.Context, addr config.Ledger) error) *cobra.Command {
	cmd.Args = noArgs
	all := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	source := config.Bind(all)
	for _, name := range []string{"ledger", "data", "config"} {
		flag := *all.Lookup(name) // a copy: a set notes only the first change of a flag
		cmd.Flags().AddFlag(&flag)
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var err error
		cmd.Flags().Visit(func(f *pflag.Flag) {
			if all.Lookup(f.Name) != nil {
				err = errors.Join(err, all.Set(f.Name, f.Value.String()))
			}
		})
		if err != nil {
			return usageError("%w", err)
		}
		conf, err := source.Load(os.Environ())
		if err != nil {
			return &exitError{code: exitUsage, err: err}
		}
		addr, err := conf.LedgerAddress()
		if err != nil {
			return usageError("%w", err)
		}
		return run(cmd.Context(), addr)
	}
	return cmd
}

func newMigrateUp(a *app) *cobra.Command {
	return onLedger(&cobra.Command{
		Use: "up", Short: "Apply pending migrations",
		Long: "Apply pending migrations, all or none. A server does the same at its start, unless it runs with --migrate=check.\n\nWith -o json: {\"applied\":[…]}.",
	}, func(ctx context.Context, addr config.Ledger) error {
		names, err := migrateLedger(ctx, addr)
		if err != nil {
			return fmt.Errorf("ledger %s: %w", addr, err)
		}
		return a.out.value(map[string][]string{"applied": nonNil(names)}, func() {
			if len(names) == 0 {
				a.out.linef("up to date")
			}
			for _, n := range names {
				a.out.linef("applied %s", n)
			}
		})
	})
}

func newMigrateStatus(a *app) *cobra.Command {
	return onLedger(&cobra.Command{
		Use: "status", Short: "Show which migrations are applied and which are pending",
		Long: "Show which migrations are applied and which are pending; the exit status is 1 if some are.\n\nWith -o json: {\"migrations\":[{\"name\",\"applied_at\"}]}.",
	}, func(ctx context.Context, addr config.Ledger) error {
		steps, err := ledgerStatus(ctx, addr)
		if err != nil {
			return fmt.Errorf("ledger %s: %w", addr, err)
		}
		pending := 0
		rows := make([][]string, len(steps))
		for i, s := range steps {
			rows[i] = []string{s.Name, "pending"}
			if s.AppliedAt == nil {
				pending++
				continue
			}
			rows[i][1] = s.AppliedAt.Local().Format(time.RFC3339)
		}
		err = a.out.value(map[string][]migrationView{"migrations": nonNil(steps)}, func() {
			a.out.table([]string{"MIGRATION", "APPLIED"}, rows)
		})
		if err == nil && pending > 0 {
			return errSilent
		}
		return err
	})
}

func newMigratePrint(a *app) *cobra.Command {
	return onLedger(&cobra.Command{
		Use: "print", Short: "Print the SQL of all migrations",
		Long: "Print the SQL of all migrations, for a database administrator who applies it by hand. The database is not touched, nor even opened.",
	}, func(_ context.Context, addr config.Ledger) error {
		text := ledgerSQL(addr)
		return a.out.value(map[string]string{"sql": text}, func() { fmt.Fprint(a.stdout, text) })
	})
}

func newMigrateFence(a *app) *cobra.Command {
	return onLedger(&cobra.Command{
		Use: "fence", Short: "Raise all fencing tokens, after a restore to an earlier point",
		Long: `Raise the fencing tokens of all jobs, after the database was restored to an
earlier point: no token that was given out before the restore is then ever given
out again, and results of work begun before it are refused.

Stop all servers first. With -o json: {"fenced"}.`,
	}, func(ctx context.Context, addr config.Ledger) error {
		n, err := fenceLedger(ctx, addr)
		if err != nil {
			return fmt.Errorf("ledger %s: %w", addr, err)
		}
		return a.out.value(map[string]int64{"fenced": n}, func() { a.out.linef("fenced %s", count(n, "job")) })
	})
}

// examineLedger is the doctor's look at the database and its schema.
func examineLedger(ctx context.Context, address string) finding {
	f := finding{Check: "schema", Status: "wrong", Advice: "Correct --ledger, or see whether the database runs."}
	addr, err := config.ParseLedger(address)
	if err != nil {
		f.Found = err.Error()
		return f
	}
	if addr.Engine == config.SQLite {
		if _, err := os.Stat(addr.Path); errors.Is(err, os.ErrNotExist) {
			f.Found, f.Advice = addr.Path+" does not exist", "It is made by the first 'errand serve'."
			return f
		}
	}
	steps, err := ledgerStatus(ctx, addr)
	if err != nil {
		f.Found = message(err)
		return f
	}
	pending := 0
	for _, s := range steps {
		if s.AppliedAt == nil {
			pending++
		}
	}
	f.Found = fmt.Sprintf("%s: %d migrations, %d pending", addr, len(steps), pending)
	if pending > 0 {
		f.Status, f.Advice = "warning", "Run 'errand migrate up', or start a server without --migrate=check."
		return f
	}
	f.Status, f.Advice = "ok", ""
	return f
}
