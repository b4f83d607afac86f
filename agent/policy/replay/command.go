// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"cocoon/agent/policy"
)

// Exit codes of Main.
const (
	exitOK    = 0
	exitNo    = 1 // a request is denied, or a test fails
	exitUsage = 2 // the command or a file is not sound
)

const usage = `usage: cocoon policy explain --policy FILE [--json] [REQUESTS...]
       cocoon policy test DIR

explain puts requests to a policy, in order and with its state, and says for
each whether it is allowed, and if not which expression of the policy did not
hold. REQUESTS are files with one JSON object a line, standard input if none:
  {"method": "grpc.AgentService/CreateContainer", "body": {…}}   a recording
  {"kind": "CreateContainerRequest", "request": {…}}             a policy log
It exits with 1 if a request is denied.

test does the same for every DIR/*.jsonl, each with a fresh state, and the
policy DIR/policy.rego. Every line says what is wanted:
  {"method": …, "body": …, "want": "deny", "because": "part of the reason"}
It exits with 1 if the policy says otherwise.
`

// Streams are the standard streams of a command.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Main runs "cocoon policy" with args and returns its exit code.
func Main(ctx context.Context, args []string, s Streams) int {
	code, err := run(ctx, args, s)
	if err != nil {
		fmt.Fprintf(s.Err, "cocoon policy: %v\n", err)
	}
	return code
}

func run(ctx context.Context, args []string, s Streams) (int, error) {
	if len(args) == 0 {
		fmt.Fprint(s.Err, usage)
		return exitUsage, nil
	}
	switch args[0] {
	case "explain":
		return explain(ctx, args[1:], s)
	case "test":
		return test(ctx, args[1:], s)
	case "-h", "--help", "help":
		fmt.Fprint(s.Out, usage)
		return exitOK, nil
	}
	return exitUsage, fmt.Errorf("unknown command %q; see cocoon policy help", args[0])
}

func explain(ctx context.Context, args []string, s Streams) (int, error) {
	f := flag.NewFlagSet("explain", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	file := f.String("policy", "", "")
	asJSON := f.Bool("json", false, "")
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(s.Out, usage)
		return exitOK, nil
	case err != nil:
		return exitUsage, err
	case *file == "":
		return exitUsage, errors.New("explain: --policy is missing")
	}
	session, err := open(ctx, *file)
	if err != nil {
		return exitUsage, err
	}
	requests, err := readAll(f.Args(), s.In)
	if err != nil {
		return exitUsage, err
	}
	code := exitOK
	for _, q := range requests {
		r, err := ask(ctx, session, q)
		if err != nil {
			return exitUsage, fmt.Errorf("line %d: %w", q.line, err)
		}
		if !r.Allowed {
			code = exitNo
		}
		if *asJSON {
			err = json.NewEncoder(s.Out).Encode(r)
		} else {
			_, err = io.WriteString(s.Out, text(q, r))
		}
		if err != nil {
			return exitUsage, fmt.Errorf("write report: %w", err)
		}
	}
	return code, nil
}

func open(ctx context.Context, file string) (*policy.Session, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	session, err := policy.NewSession(ctx, string(b))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return session, nil
}

func readAll(files []string, in io.Reader) ([]request, error) {
	if len(files) == 0 {
		return parse(in)
	}
	var all []request
	for _, name := range files {
		list, err := readFile(name)
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	return all, nil
}

func readFile(name string) (list []request, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if list, err = parse(f); err != nil {
		err = fmt.Errorf("%s: %w", name, err)
	}
	return list, err
}

func ask(ctx context.Context, s *policy.Session, q request) (policy.Report, error) {
	if q.msg != nil {
		return s.Ask(ctx, q.msg)
	}
	return s.AskInput(ctx, q.rule, q.input)
}

// text is a report for people.
func text(q request, r policy.Report) string {
	var b strings.Builder
	if r.Allowed {
		fmt.Fprintf(&b, "line %d: %s is allowed\n", q.line, r.Rule)
		return b.String()
	}
	fmt.Fprintf(&b, "line %d: %s is DENIED\n", q.line, r.Rule)
	if r.Reason != "" {
		fmt.Fprintf(&b, "    because: %s\n", r.Reason)
	}
	for _, f := range r.Failed {
		fmt.Fprintf(&b, "    policy line %d: %s\n", f.Line, f.Expression)
		if f.Field != "" {
			fmt.Fprintf(&b, "        %s\n            wanted %s\n            got    %s\n", f.Field, known(f.Wanted), known(f.Got))
		}
	}
	for _, p := range r.Prints {
		fmt.Fprintf(&b, "    printed: %s\n", p)
	}
	return b.String()
}

func known(value string) string {
	if value == "" {
		return "(not known)"
	}
	return value
}

// test runs every recording of a directory.
func test(ctx context.Context, args []string, s Streams) (int, error) {
	if len(args) != 1 || strings.HasPrefix(args[0], "-") {
		return exitUsage, errors.New("test: want one directory; see cocoon policy help")
	}
	files, err := filepath.Glob(filepath.Join(args[0], "*.jsonl"))
	if err != nil {
		return exitUsage, err
	}
	if len(files) == 0 {
		return exitUsage, fmt.Errorf("test: no *.jsonl in %q", args[0])
	}
	slices.Sort(files)
	code := exitOK
	for _, file := range files {
		// A fresh state for each: recordings are independent of each other.
		session, err := open(ctx, filepath.Join(args[0], "policy.rego"))
		if err != nil {
			return exitUsage, err
		}
		bad, n, err := testFile(ctx, session, file)
		if err != nil {
			return exitUsage, err
		}
		verdict := "ok  "
		if len(bad) > 0 {
			verdict, code = "FAIL", exitNo
		}
		if _, err := fmt.Fprintf(s.Out, "%s %s (%d requests)\n%s", verdict, filepath.Base(file), n, strings.Join(bad, "")); err != nil {
			return exitUsage, fmt.Errorf("write result: %w", err)
		}
	}
	return code, nil
}

// testFile returns a text for each request about which the policy says
// something else than wanted, and how many were asked.
func testFile(ctx context.Context, session *policy.Session, file string) (bad []string, n int, err error) {
	requests, err := readFile(file)
	if err != nil {
		return nil, 0, err
	}
	for _, q := range requests {
		if q.want == "" {
			return nil, 0, fmt.Errorf("%s: line %d: %w: it does not say what is wanted", file, q.line, ErrBadRequest)
		}
		r, err := ask(ctx, session, q)
		if err != nil {
			return nil, 0, fmt.Errorf("%s: line %d: %w", file, q.line, err)
		}
		said := text(q, r)
		switch {
		case r.Allowed != (q.want == "allow"):
			bad = append(bad, fmt.Sprintf("    wanted %s:\n%s", q.want, said))
		case !strings.Contains(said, q.because):
			bad = append(bad, fmt.Sprintf("    denied, but not because of %q:\n%s", q.because, said))
		}
	}
	return bad, len(requests), nil
}
