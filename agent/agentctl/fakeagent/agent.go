// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package fakeagent is an agent without containers, for tests of what talks to
// one. It speaks the real protocol over a real socket; its processes are
// goroutines that know four commands:
//
//	echo WORD…   prints the words
//	cat          copies stdin to stdout until stdin is closed
//	fail N       prints "failing" to stderr and exits with N
//	sleep        ends with the first signal, code 128+n
//
// It trusts its client and is never part of a guest.
package fakeagent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"cocoon/internal/wire/agentpb"
)

// Agent is the fake. Use New.
type Agent struct {
	// Unset methods of the protocol are not part of the fake.
	agentpb.AgentServiceService

	mu        sync.Mutex
	created   map[string]*agentpb.CreateContainerRequest
	processes map[string]*process
	calls     []string
	files     map[string][]byte
	policy    string
	deny      map[string]bool
	held      map[string]bool
	wg        sync.WaitGroup
	destroyed chan struct{}
	once      sync.Once
}

// New returns an agent that refuses the named methods with PERMISSION_DENIED.
func New(deny ...string) *Agent {
	a := &Agent{
		created:   make(map[string]*agentpb.CreateContainerRequest),
		processes: make(map[string]*process),
		files:     make(map[string][]byte),
		deny:      make(map[string]bool),
		held:      make(map[string]bool),
		destroyed: make(chan struct{}),
	}
	for _, m := range deny {
		a.deny[m] = true
	}
	return a
}

// Hold makes calls of method wait until their callers give up or the agent ends.
func (a *Agent) Hold(method string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.held[method] = true
}

// Serve serves l until stop is called, which waits for everything to end.
func (a *Agent) Serve(l net.Listener) (stop func() error, err error) {
	srv, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(a.record))
	if err != nil {
		return nil, err
	}
	agentpb.RegisterAgentServiceService(srv, a)
	agentpb.RegisterHealthService(srv, health{})
	done := make(chan error, 1)
	go func() { done <- srv.Serve(context.Background(), l) }()
	return func() error {
		a.end()
		closed, served := srv.Close(), <-done
		a.wg.Wait()
		if errors.Is(served, ttrpc.ErrServerClosed) {
			served = nil
		}
		return errors.Join(closed, served)
	}, nil
}

// end ends every process and releases who waits for an event.
func (a *Agent) end() {
	a.once.Do(func() { close(a.destroyed) })
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.processes {
		p.kill(9)
	}
}

func (a *Agent) record(ctx context.Context, decode ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, next ttrpc.Method) (any, error) {
	method := info.FullMethod[strings.LastIndex(info.FullMethod, "/")+1:]
	a.mu.Lock()
	a.calls = append(a.calls, method)
	denied, held := a.deny[method], a.held[method]
	a.mu.Unlock()
	if held {
		select {
		case <-ctx.Done():
		case <-a.destroyed:
		}
		return nil, status.Error(codes.Canceled, "given up")
	}
	if denied {
		return nil, status.Errorf(codes.PermissionDenied, "%sRequest is blocked by policy: ", method)
	}
	return next(ctx, decode)
}

// Calls returns the methods that were called, in order, without reads.
func (a *Agent) Calls() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []string
	for _, c := range a.calls {
		if !strings.HasPrefix(c, "Read") {
			out = append(out, c)
		}
	}
	return out
}

// Policy returns the text that was set.
func (a *Agent) Policy() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.policy
}

// File returns what CopyFile made of path: content, a link's target, or the
// type in octal for a directory.
func (a *Agent) File(path string) (string, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	b, ok := a.files[path]
	return string(b), ok
}

// Containers returns how many containers exist.
func (a *Agent) Containers() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.created)
}

// process is a goroutine in place of a process.
type process struct {
	args           []string
	stdin          *io.PipeReader
	stdinW         *io.PipeWriter
	stdout, stderr *io.PipeReader
	outW, errW     *io.PipeWriter
	signals        chan uint32
	done           chan struct{}
	code           int32
}

func newProcess(args []string) *process {
	p := &process{args: args, signals: make(chan uint32, 8), done: make(chan struct{})}
	p.stdin, p.stdinW = io.Pipe()
	p.stdout, p.outW = io.Pipe()
	p.stderr, p.errW = io.Pipe()
	return p
}

func (p *process) run() {
	defer close(p.done)
	switch p.args[0] {
	case "echo":
		_, _ = io.WriteString(p.outW, strings.Join(p.args[1:], " ")+"\n") // ended by kill
	case "cat":
		_, _ = io.Copy(p.outW, p.stdin) // ended by kill
	case "fail":
		_, _ = io.WriteString(p.errW, "failing\n") // ended by kill
		n, err := strconv.ParseUint(p.args[1], 10, 8)
		if err != nil {
			n = 99
		}
		p.code = int32(n)
	case "sleep":
		_, _ = io.WriteString(p.outW, "ready\n") // ended by kill
		p.code = 128 + int32(<-p.signals)
	}
	p.close()
}

func (p *process) close() {
	_ = p.stdin.Close() // a pipe's Close gives no error
	_ = p.outW.Close()
	_ = p.errW.Close()
}

func (p *process) kill(sig uint32) {
	select {
	case p.signals <- sig:
	default:
	}
	if sig == 9 {
		p.close()
		_ = p.stdout.Close() // releases a writer without reader
		_ = p.stderr.Close()
	}
}

func key(container, exec string) string {
	if exec == container {
		exec = ""
	}
	return container + "/" + exec
}

func (a *Agent) start(container, exec string, args []string) error {
	if len(args) == 0 {
		return status.Error(codes.Internal, "no command")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.processes[key(container, exec)]; ok {
		return status.Errorf(codes.Internal, "process %q exists", exec)
	}
	p := newProcess(args)
	a.processes[key(container, exec)] = p
	a.wg.Go(p.run)
	return nil
}

func (a *Agent) find(container, exec string) (*process, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p, ok := a.processes[key(container, exec)]
	if !ok {
		return nil, status.Errorf(codes.InvalidArgument, "Invalid container id %s", container)
	}
	return p, nil
}

// CreateSandbox succeeds.
func (a *Agent) CreateSandbox(context.Context, *agentpb.CreateSandboxRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, nil
}

// DestroySandbox ends all processes.
func (a *Agent) DestroySandbox(context.Context, *agentpb.DestroySandboxRequest) (*emptypb.Empty, error) {
	a.end()
	return &emptypb.Empty{}, nil
}

// CreateContainer remembers the request.
func (a *Agent) CreateContainer(_ context.Context, r *agentpb.CreateContainerRequest) (*emptypb.Empty, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.created[r.GetContainerId()]; ok {
		return nil, status.Errorf(codes.Internal, "container %s exists", r.GetContainerId())
	}
	a.created[r.GetContainerId()] = r
	return &emptypb.Empty{}, nil
}

// StartContainer starts the process of a created container.
func (a *Agent) StartContainer(_ context.Context, r *agentpb.StartContainerRequest) (*emptypb.Empty, error) {
	a.mu.Lock()
	req, ok := a.created[r.GetContainerId()]
	a.mu.Unlock()
	if !ok {
		return nil, status.Error(codes.Internal, "Invalid container id")
	}
	return &emptypb.Empty{}, a.start(r.GetContainerId(), "", req.GetOCI().GetProcess().GetArgs())
}

// RemoveContainer kills and forgets a container.
func (a *Agent) RemoveContainer(_ context.Context, r *agentpb.RemoveContainerRequest) (*emptypb.Empty, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.created[r.GetContainerId()]; !ok {
		return nil, status.Error(codes.Internal, "Invalid container id")
	}
	delete(a.created, r.GetContainerId())
	for k, p := range a.processes {
		if strings.HasPrefix(k, r.GetContainerId()+"/") {
			p.kill(9)
			delete(a.processes, k)
		}
	}
	return &emptypb.Empty{}, nil
}

// ExecProcess starts another process in a container.
func (a *Agent) ExecProcess(_ context.Context, r *agentpb.ExecProcessRequest) (*emptypb.Empty, error) {
	if _, err := a.find(r.GetContainerId(), ""); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, a.start(r.GetContainerId(), r.GetExecId(), r.GetProcess().GetArgs())
}

// SignalProcess ends sleep, and with 9 anything.
func (a *Agent) SignalProcess(_ context.Context, r *agentpb.SignalProcessRequest) (*emptypb.Empty, error) {
	p, err := a.find(r.GetContainerId(), r.GetExecId())
	if err != nil {
		return nil, err
	}
	p.kill(r.GetSignal())
	return &emptypb.Empty{}, nil
}

// WaitProcess waits for the end of a process.
func (a *Agent) WaitProcess(ctx context.Context, r *agentpb.WaitProcessRequest) (*agentpb.WaitProcessResponse, error) {
	p, err := a.find(r.GetContainerId(), r.GetExecId())
	if err != nil {
		return nil, err
	}
	select {
	case <-p.done:
		return &agentpb.WaitProcessResponse{Status: p.code}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// ReadStdout returns what a process printed, nothing at the end.
func (a *Agent) ReadStdout(_ context.Context, r *agentpb.ReadStreamRequest) (*agentpb.ReadStreamResponse, error) {
	p, err := a.find(r.GetContainerId(), r.GetExecId())
	if err != nil {
		return nil, err
	}
	return read(p.stdout, r.GetLen()), nil
}

// ReadStderr is ReadStdout for the other stream.
func (a *Agent) ReadStderr(_ context.Context, r *agentpb.ReadStreamRequest) (*agentpb.ReadStreamResponse, error) {
	p, err := a.find(r.GetContainerId(), r.GetExecId())
	if err != nil {
		return nil, err
	}
	return read(p.stderr, r.GetLen()), nil
}

func read(r io.Reader, limit uint32) *agentpb.ReadStreamResponse {
	buf := make([]byte, min(limit, 1<<20))
	n, _ := r.Read(buf) // any error is the end of a pipe
	return &agentpb.ReadStreamResponse{Data: buf[:n]}
}

// WriteStdin takes at most 5 bytes at once, so that clients learn to repeat.
func (a *Agent) WriteStdin(_ context.Context, r *agentpb.WriteStreamRequest) (*agentpb.WriteStreamResponse, error) {
	p, err := a.find(r.GetContainerId(), r.GetExecId())
	if err != nil {
		return nil, err
	}
	n, err := p.stdinW.Write(r.GetData()[:min(5, len(r.GetData()))])
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &agentpb.WriteStreamResponse{Len: uint32(n)}, nil
}

// CloseStdin ends cat.
func (a *Agent) CloseStdin(_ context.Context, r *agentpb.CloseStdinRequest) (*emptypb.Empty, error) {
	p, err := a.find(r.GetContainerId(), r.GetExecId())
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, p.stdinW.Close()
}

// TtyWinResize succeeds.
func (a *Agent) TtyWinResize(context.Context, *agentpb.TtyWinResizeRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, nil
}

// StatsContainer answers with one number.
func (a *Agent) StatsContainer(context.Context, *agentpb.StatsContainerRequest) (*agentpb.StatsContainerResponse, error) {
	return &agentpb.StatsContainerResponse{CgroupStats: &agentpb.CgroupStats{PidsStats: &agentpb.PidsStats{Current: 7}}}, nil
}

// GetGuestDetails answers with one number.
func (a *Agent) GetGuestDetails(context.Context, *agentpb.GuestDetailsRequest) (*agentpb.GuestDetailsResponse, error) {
	return &agentpb.GuestDetailsResponse{MemBlockSizeBytes: 128 << 20}, nil
}

// GetOOMEvent waits for the end of the sandbox.
func (a *Agent) GetOOMEvent(ctx context.Context, _ *agentpb.GetOOMEventRequest) (*agentpb.OOMEvent, error) {
	select {
	case <-a.destroyed:
		return nil, status.Error(codes.Internal, "")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// RemoveStaleVirtiofsShareMounts succeeds.
func (a *Agent) RemoveStaleVirtiofsShareMounts(context.Context, *agentpb.RemoveStaleVirtiofsShareMountsRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, nil
}

// CopyFile remembers files, see File.
func (a *Agent) CopyFile(_ context.Context, r *agentpb.CopyFileRequest) (*emptypb.Empty, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	old := a.files[r.GetPath()]
	switch kind := r.GetFileMode() & 0o170000; {
	case kind == 0o040000:
		a.files[r.GetPath()] = fmt.Appendf(nil, "%o", kind)
	case r.GetOffset() == 0:
		a.files[r.GetPath()] = append([]byte{}, r.GetData()...)
	case r.GetOffset() == int64(len(old)):
		a.files[r.GetPath()] = append(old, r.GetData()...)
	default:
		return nil, status.Errorf(codes.Internal, "offset %d of a file of %d bytes", r.GetOffset(), len(old))
	}
	return &emptypb.Empty{}, nil
}

// SetPolicy remembers the text.
func (a *Agent) SetPolicy(_ context.Context, r *agentpb.SetPolicyRequest) (*emptypb.Empty, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.policy = r.GetPolicy()
	return &emptypb.Empty{}, nil
}

type health struct{}

func (health) Check(context.Context, *agentpb.CheckRequest) (*agentpb.HealthCheckResponse, error) {
	return &agentpb.HealthCheckResponse{Status: agentpb.HealthCheckResponse_SERVING}, nil
}

func (health) Version(context.Context, *agentpb.CheckRequest) (*agentpb.VersionCheckResponse, error) {
	return &agentpb.VersionCheckResponse{GrpcVersion: "0.0.1", AgentVersion: "fake"}, nil
}
