// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package tool is the command with which an owner looks at attestation from
// inside a guest: cocoon attest.
//
// Trust: it runs as root in the guest and asks the attestation agent's socket.
// What it prints goes to whoever called it; the key that a token is bound to is
// not among it.
package tool

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/containerd/ttrpc"

	"cocoon/attest"
	"cocoon/attest/eventlog"
	"cocoon/internal/bounded"
	"cocoon/internal/wire/aapb"
)

const usage = `usage: cocoon attest tee                        which TEE the guest is in
       cocoon attest evidence [-report-data HEX] its evidence, as JSON
       cocoon attest token                       a token of the key broker, without its key
       cocoon attest eventlog [FILE]             what was measured, and the registers it gives
       cocoon attest explain [-tee TEE FILE]     what its evidence, or that in a file, claims in words

-socket URI names the attestation agent's socket.
`

// timeout bounds one question: evidence on some clouds takes seconds.
const timeout = time.Minute

// Streams are where the command writes.
type Streams struct{ Out, Err io.Writer }

// errUsage is returned for a command line that makes no sense.
var errUsage = errors.New("wrong usage")

// Main runs the command and returns its exit code: 0, or 1 if it failed, or 2
// for wrong usage.
func Main(ctx context.Context, args []string, s Streams) int {
	err := run(ctx, args, s.Out)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errUsage):
		fmt.Fprintf(s.Err, "cocoon attest: %v\n%s", err, usage)
		return 2
	}
	fmt.Fprintf(s.Err, "cocoon attest: %v\n", err)
	return 1
}

// options are the flags of all its commands.
type options struct {
	socket, reportData, tee string
	args                    []string
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		return fmt.Errorf("%w: which command?", errUsage)
	}
	var o options
	f := flag.NewFlagSet("cocoon attest", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&o.socket, "socket", attest.DefaultSocket, "")
	f.StringVar(&o.reportData, "report-data", "", "")
	f.StringVar(&o.tee, "tee", "", "")
	if err := f.Parse(args[1:]); err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	o.args = f.Args()
	commands := map[string]func(context.Context, options, io.Writer) error{
		"tee": printTEE, "evidence": printEvidence, "token": printToken, "eventlog": printLog, "explain": printExplanation,
	}
	command, ok := commands[args[0]]
	if !ok {
		return fmt.Errorf("%w: there is no command %.32q", errUsage, args[0])
	}
	if len(o.args) > 1 || len(o.args) == 1 && args[0] != "eventlog" && args[0] != "explain" {
		return fmt.Errorf("%w: unexpected argument %.64q", errUsage, o.args[len(o.args)-1])
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return command(ctx, o, out)
}

// ask calls f with a client of the agent.
func ask(ctx context.Context, socket string, f func(aapb.AttestationAgentServiceService) error) (err error) {
	path, ok := strings.CutPrefix(socket, "unix://")
	if !ok {
		return fmt.Errorf("%w: socket %.128q does not begin with unix://", errUsage, socket)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("connect to the attestation agent: %w", err)
	}
	client := ttrpc.NewClient(conn)
	defer func() {
		if e := client.Close(); err == nil && !errors.Is(e, net.ErrClosed) {
			err = e
		}
	}()
	return f(aapb.NewAttestationAgentServiceClient(client))
}

func printTEE(ctx context.Context, o options, out io.Writer) error {
	return ask(ctx, o.socket, func(c aapb.AttestationAgentServiceService) error {
		r, err := c.GetTeeType(ctx, &aapb.GetTeeTypeRequest{})
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(out, r.GetTee())
		return err
	})
}

func printEvidence(ctx context.Context, o options, out io.Writer) error {
	data, err := hex.DecodeString(o.reportData)
	if err != nil {
		return fmt.Errorf("%w: report data: %w", errUsage, err)
	}
	return ask(ctx, o.socket, func(c aapb.AttestationAgentServiceService) error {
		r, err := c.GetEvidence(ctx, &aapb.GetEvidenceRequest{RuntimeData: data})
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(out, "%s\n", r.GetEvidence())
		return err
	})
}

func printToken(ctx context.Context, o options, out io.Writer) error {
	return ask(ctx, o.socket, func(c aapb.AttestationAgentServiceService) error {
		r, err := c.GetToken(ctx, &aapb.GetTokenRequest{TokenType: "kbs"})
		if err != nil {
			return err
		}
		var t struct {
			Token string `json:"token"`
		}
		if err := json.Unmarshal(r.GetToken(), &t); err != nil {
			return errors.New("the attestation agent's token is no JSON") // the cause may quote its key
		}
		_, err = fmt.Fprintln(out, t.Token)
		return err
	})
}

// printLog prints a log, either that of the agent alone or one that a firmware
// has begun.
func printLog(_ context.Context, o options, out io.Writer) error {
	file := filepath.Join(eventlog.Dir, eventlog.File)
	if len(o.args) == 1 {
		file = o.args[0]
	}
	l, err := readLog(file)
	if err != nil {
		return fmt.Errorf("event log %q: %w", file, err)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, e := range l.Events {
		name, ok := e.TypeName()
		if !ok {
			name = fmt.Sprintf("%#x", e.Type)
		}
		what := ""
		if entry, ok := e.AsEntry(); ok {
			what = fmt.Sprintf("%q %q %q", entry.Domain, entry.Operation, entry.Content)
		}
		fmt.Fprintf(w, "%d\t%s\t%s\n", e.Register, name, what)
	}
	for _, a := range l.Algs {
		values, err := l.Replay(a)
		if err != nil {
			continue // the log does not have this algorithm in every entry
		}
		for _, n := range slices.Sorted(maps.Keys(values)) {
			fmt.Fprintf(w, "register %d\t%s\t%x\n", n, a, values[n])
		}
	}
	return w.Flush()
}

func readLog(file string) (*eventlog.Log, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close() // opened to read; its error says nothing
	b, err := bounded.ReadAll(f, eventlog.MaxSize)
	if err != nil {
		return nil, err
	}
	if l, err := eventlog.Parse(b); err == nil {
		return l, nil
	}
	return eventlog.Parse(append(eventlog.Header(), b...))
}
