// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"time"

	"cocoon/internal/bounded"
	"cocoon/internal/cmdline"
	"cocoon/internal/klog"
)

// TimelinePath is where PID 1 leaves the Timeline of the boot, as JSON.
const TimelinePath = "/run/cocoon/boot.json"

// State is what earlier steps leave to later ones.
type State struct {
	Deps     Deps
	Log      *slog.Logger
	Cmdline  cmdline.Line
	Timeline Timeline

	network *NetConfig
	loaded  []string // files of modules
	kernel  *klog.Log
}

// Step is one entry of the boot table.
type Step struct {
	// Name says in the log and in errors what is being done.
	Name string
	// When decides whether the step runs. A nil When means always.
	When func(*State) bool
	// Run does the work.
	Run func(context.Context, *State) error
}

// Timeline is how long the boot took.
type Timeline struct {
	// Kernel is the time from power-on until PID 1 ran, in milliseconds.
	Kernel int64 `json:"kernel_ms"`
	// Steps are the steps that ran, in order.
	Steps []Timing `json:"steps"`
}

// Timing is the time that one step took.
type Timing struct {
	Name string `json:"name"`
	// Micros is the duration in microseconds.
	Micros int64 `json:"us"`
}

// maxTimeline bounds the timeline file; a real one has about 2 KiB.
const maxTimeline = 64 << 10

// ReadTimeline decodes what PID 1 wrote to TimelinePath.
func ReadTimeline(r io.Reader) (Timeline, error) {
	b, err := bounded.ReadAll(r, maxTimeline)
	if err != nil {
		return Timeline{}, fmt.Errorf("read boot timeline: %w", err)
	}
	var t Timeline
	if err := json.Unmarshal(b, &t); err != nil {
		return Timeline{}, fmt.Errorf("decode boot timeline: %w", err)
	}
	return t, nil
}

// Total returns the time that all steps took together.
func (t Timeline) Total() time.Duration {
	var sum int64
	for _, s := range t.Steps {
		sum += s.Micros
	}
	return time.Duration(sum) * time.Microsecond
}

// runSteps executes steps in order and stops at the first that fails.
func runSteps(ctx context.Context, s *State, steps []Step) error {
	for i, step := range steps {
		if step.When != nil && !step.When(s) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("boot step %q: %w", step.Name, err)
		}
		start := s.Deps.Uptime()
		err := guard(func() error { return step.Run(ctx, s) })
		took := s.Deps.Uptime() - start
		s.Timeline.Steps = append(s.Timeline.Steps, Timing{Name: step.Name, Micros: took.Microseconds()})
		if err != nil {
			return fmt.Errorf("boot step %q: %w", step.Name, err)
		}
		s.Log.Info("boot", "step", step.Name, "n", fmt.Sprintf("%d/%d", i+1, len(steps)), "ms", millis(took))
	}
	return nil
}

func millis(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d)/float64(time.Millisecond)) }

// panicError is a panic that was caught; its text carries the stack.
type panicError struct {
	value any
	stack []byte
}

func (p *panicError) Error() string { return fmt.Sprintf("panic: %v\n%s", p.value, p.stack) }

// guard runs f and turns a panic into an error: PID 1 must reach the power-off
// whatever happens, since its death would be a kernel panic.
func guard(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &panicError{value: v, stack: debug.Stack()}
		}
	}()
	return f()
}
