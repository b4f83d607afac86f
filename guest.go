// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"cocoon/agent"
	"cocoon/agent/device"
	"cocoon/agent/policy"
	"cocoon/agent/runtime"
	"cocoon/attest"
	"cocoon/attest/tee"
	"cocoon/cdh"
	"cocoon/cdh/rest"
	"cocoon/cdh/volume"
	"cocoon/imagers"
	"cocoon/internal/config"
	"cocoon/internal/console"
	"cocoon/internal/logport"
	"cocoon/internal/mapper"
	"cocoon/internal/stage"
	"cocoon/rootfs/boot"
)

// credentialRetry is the pause between attempts to fetch credentials; each
// attempt has the key broker client's own retries.
const credentialRetry = 15 * time.Second

// guest holds the parts of the guest role, joined in the order in which the
// methods of this file stand.
type guest struct {
	opt     options
	profile profile
	log     *slog.Logger
	inputs  inputs
	cfg     *config.Config
	tee     tee.Attester
	attest  *attest.Agent
	hub     *cdh.Hub
	images  *imageStore
	volumes *volume.Volumes
	policy  *policy.Engine
	agent   *agent.Agent
	owner   *ownerLog
	logPort *logport.Log
	steps   []boot.Timing // of this role, in order
}

// serveGuest brings the parts up and serves until the pod is over, ctx ends or
// a part fails. No door opens before the policy is in force.
func serveGuest(ctx context.Context, o options) (err error) {
	g := &guest{opt: o}
	if g.profile, err = readProfile(profilePath); err != nil {
		return err
	}
	if err := g.profile.accepts(o); err != nil {
		return err
	}
	g.logPort = logport.New()
	g.log = newLog(slog.LevelInfo, g.logWriter())
	g.log.Info("announce", "agent-version", version, "profile", g.profile.name)
	for _, step := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"inputs", g.readInputs},
		{"initdata", g.bindInitdata},
		{"configuration", g.configure},
		{"attestation agent", g.startAttestation},
		{"data hub", g.startHub},
		{"image puller", g.startPuller},
		{"policy", g.loadPolicy},
		{"agent", g.startAgent},
	} {
		start := time.Now()
		if err := step.run(ctx); err != nil {
			return errors.Join(err, g.close(ctx))
		}
		g.steps = append(g.steps, boot.Timing{Name: step.name, Micros: time.Since(start).Microseconds()})
	}
	return errors.Join(g.serve(ctx), g.close(ctx))
}

// logWriter is the console and whoever reads the log stream.
func (g *guest) logWriter() io.Writer { return io.MultiWriter(os.Stdout, g.logPort) }

// configure freezes all settings and says what is odd about them.
func (g *guest) configure(context.Context) error {
	if err := g.load(); err != nil {
		return err
	}
	g.log = newLog(g.cfg.Agent.LogLevel, g.logWriter())
	if g.cfg.Agent.LogPort == 0 {
		g.logPort.Close()
	}
	for _, w := range g.cfg.Warnings {
		g.log.Warn("configuration", "warning", w)
	}
	for _, k := range g.cfg.Sources() {
		g.log.Debug("setting", "key", k, "from", g.cfg.Source(k))
	}
	switch a := g.cfg.Agent; {
	case a.DebugConsole && !g.profile.console:
		g.log.Warn("the debug console that the settings ask for is not part of this profile")
	case a.DebugConsole && a.DebugConsolePort == 0:
		g.log.Warn("the debug console that the settings ask for needs agent.debug_console_vport")
	}
	return nil
}

// load merges all settings.
func (g *guest) load() error {
	in := config.Inputs{
		CmdlineMeasured: g.profile.cmdline,
		CDH:             g.inputs.cdh,
		AA:              g.inputs.aa,
		RegistryAuth:    g.inputs.registryAuth,
		ReadFile:        os.ReadFile,
		ServerAddr:      g.opt.listen,
	}
	if g.profile.cmdline {
		b, err := os.ReadFile("/proc/cmdline")
		if err != nil {
			return fmt.Errorf("read the kernel command line: %w", err)
		}
		in.Cmdline = string(b)
	}
	if g.profile.environment {
		in.Env = map[string]string{}
		for _, e := range os.Environ() {
			if k, v, ok := strings.Cut(e, "="); ok && strings.HasPrefix(k, "KATA_AGENT_") {
				in.Env[k] = v
			}
		}
	}
	cfg, err := config.Load(in)
	if err != nil {
		return stage.Wrap(stage.Config, err)
	}
	g.cfg = cfg
	return nil
}

func (g *guest) startHub(context.Context) error {
	var broker cdh.Broker = g.attest
	log := g.log.With("subsystem", "cdh")
	if g.cfg.CDH.KBC.Name == config.KBCOffline {
		broker = cdh.NewOffline(cdh.OfflineFiles(), log)
	}
	g.hub = cdh.New(cdh.Config{SkipSealedSecretVerification: g.cfg.CDH.SkipSealedSecretVerification}, cdh.Deps{Broker: broker, Log: log})
	return nil
}

func (g *guest) startPuller(ctx context.Context) (err error) {
	g.volumes = volume.New(volume.Config{
		Mapper: mapper.Mapper{}, Integrity: g.cfg.Agent.SecureStorageIntegrity, Log: g.log.With("subsystem", "volume"),
	})
	im := g.cfg.CDH.Image
	dir := g.path(im.WorkDir)
	g.images, err = openImages(dir, func() (*imagers.Puller, error) {
		return imagers.New(imagers.Config{
			WorkDir:       dir,
			ExtraRootsPEM: im.ExtraRoots,
			Proxy:         imagers.Proxy{HTTPS: im.Proxy.HTTPS, HTTP: im.Proxy.HTTP, NoProxy: im.Proxy.No},
			MaxConcurrent: min(im.MaxConcurrentDownloads, goruntime.GOMAXPROCS(0)+1),
			AuthURI:       im.RegistryAuthURI,
			PolicyURI:     im.SecurityPolicyURI,
			Policy:        im.SecurityPolicy,
			Log:           g.log.With("subsystem", "image"),
		}, imagers.Deps{Keys: g.hub, Resources: resources{g.hub}})
	})
	if err != nil {
		return err
	}
	return g.useScratch(ctx)
}

// trustStore puts the image store on an encrypted disk, so that images do not
// have to fit into memory.
func (g *guest) trustStore(ctx context.Context, disk string) error {
	return g.images.Move(ctx, func(ctx context.Context, dir string) (func(context.Context) error, error) {
		return g.volumes.SecureMount(ctx, disk, dir)
	})
}

// loadPolicy puts the owner's policy in force, or that of the image. With
// neither the door stays closed.
func (g *guest) loadPolicy(ctx context.Context) (err error) {
	if g.owner, err = openOwnerLog(g.path("/run/cocoon/owner.jsonl")); err != nil {
		return err
	}
	g.policy = policy.New(policy.Config{
		Log:          g.log.With("subsystem", "policy"),
		Owner:        slog.New(slog.NewJSONHandler(g.owner, nil)),
		OnDeniedRead: func(_ context.Context, s policy.Stream) { g.agent.Drain(s.ContainerID, s.ExecID, s.Stderr) },
	})
	if err := g.readPolicyFile(); err != nil {
		return err
	}
	text := g.inputs.policy
	if text == nil {
		g.log.Warn("no policy: every request is refused")
		return nil
	}
	if err := g.policy.Load(ctx, string(text.Data)); err != nil {
		return stage.Errorf(stage.Policy, "policy from %q: %w", text.From, err)
	}
	g.log.Info("policy in force", "from", text.From)
	return nil
}

// readPolicyFile reads the policy that the agent's settings name, a file of the
// image. An owner's policy counts more.
func (g *guest) readPolicyFile() error {
	name := g.cfg.Agent.PolicyFile
	if name == "" || g.inputs.policy != nil && g.inputs.policy.From != defaultPolicyPath {
		return nil
	}
	file, err := readInput(name)
	if err != nil {
		return stage.Wrap(stage.Policy, err)
	}
	g.inputs.policy = file
	return nil
}

func (g *guest) startAgent(context.Context) error {
	rt, err := runtime.New(runtime.Config{
		StateDir: g.path(runtime.DefaultStateDir),
		PipeSize: g.cfg.Agent.ContainerPipeSize,
		Log:      g.log.With("subsystem", "runtime"),
	})
	if err != nil {
		return err
	}
	paths := agent.DefaultPaths()
	if g.opt.root != "" {
		paths = agent.PathsBelow(g.opt.root)
	}
	g.agent, err = agent.New(agent.Deps{
		Version: version, Runtime: rt, Policy: g.policy, Puller: puller{g.images, g.cfg.Agent.ImagePullTimeout}, Unsealer: g.hub,
		CDI:         agent.CDI{Timeout: g.cfg.Agent.CDITimeout},
		SecureMount: g.volumes, TrustStore: g.trustStore,
		Devices: device.New(device.Config{Sys: paths.Sys, Timeout: g.cfg.Agent.HotplugTimeout}),
		Prepare: g.inputs.prepare, Paths: paths, SupportsSeccomp: true, Log: g.log,
	})
	return err
}

// serve opens all doors and waits until the pod is over.
func (g *guest) serve(ctx context.Context) error {
	doors, err := g.open(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	if doors.aa != nil {
		group.Go(func() error { return g.attest.Serve(ctx, doors.aa) })
	}
	if doors.cdh != nil {
		group.Go(func() error { return g.hubServer().Serve(ctx, doors.cdh) })
	}
	if doors.rest != nil {
		group.Go(func() error { return g.serveREST(ctx, doors.rest) })
	}
	group.Go(func() error { g.fetchCredentials(ctx); return nil })
	group.Go(func() error { g.reportReady(ctx); return nil })
	group.Go(func() error {
		// The end of the sandbox is the end of the guest.
		defer cancel()
		return g.agent.Serve(ctx, doors.agent, g.inputs.rewrite...)
	})
	g.serveLog(ctx, group, doors)
	g.logTimeline()
	if err := g.report(ctx); err != nil {
		cancel()
		return errors.Join(err, group.Wait())
	}
	g.logReady()
	return group.Wait()
}

// serveLog serves the log stream and the debug console, where the settings ask
// for them. A host that does not get them has no less of a guest.
func (g *guest) serveLog(ctx context.Context, group *errgroup.Group, d doors) {
	if d.log != nil {
		group.Go(func() error {
			if err := g.logPort.Serve(ctx, d.log); err != nil {
				g.logPort.Close()
				g.log.Error("log stream", "error", err)
			}
			return nil
		})
	}
	if d.console != nil {
		group.Go(func() error {
			if err := console.Serve(ctx, d.console, g.log.With("subsystem", "console")); err != nil {
				g.log.Error("debug console", "error", err)
			}
			return nil
		})
	}
}

// report writes down what this guest runs with.
func (g *guest) report(ctx context.Context) error {
	digest, err := g.policy.Digest(ctx)
	if err != nil {
		return err
	}
	return g.writeReport(digest)
}

func (g *guest) hubServer() *cdh.Server {
	return &cdh.Server{Hub: g.hub, Timeout: g.cfg.Agent.CDHTimeout, Pull: func(ctx context.Context, image, bundle string) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, g.cfg.Agent.ImagePullTimeout)
		defer cancel()
		r, err := g.images.Pull(ctx, imagers.Request{Image: image, Bundle: bundle})
		return r.ManifestDigest.String(), err
	}}
}

func (g *guest) serveREST(ctx context.Context, l net.Listener) error {
	return rest.Serve(ctx, l, rest.Config{
		Features: rest.Features(g.restFeatures()), Version: version, TEE: g.attest.TEE(), AdditionalTEEs: g.attest.AdditionalTEEs(),
	}, rest.Deps{Resources: g.hub, Attester: g.attest, Extend: measurer{g.attest}.extend, Log: g.log.With("subsystem", "rest")})
}

// fetchCredentials fetches what cdh.toml lists, again and again until it
// succeeds: whoever needs a file that is not there fails by itself and says so.
func (g *guest) fetchCredentials(ctx context.Context) {
	var list []cdh.Credential
	for _, c := range g.cfg.CDH.Credentials {
		list = append(list, cdh.Credential{Path: c.Path, URI: c.ResourceURI})
	}
	for len(list) > 0 {
		err := g.hub.FetchCredentials(ctx, g.path(cdh.DefaultCredentialDir), list)
		if err == nil || ctx.Err() != nil {
			return
		}
		g.log.Error("fetch the credentials of cdh.toml", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(credentialRetry):
		}
	}
}

// restFeatures is what the configuration says; peer pods get everything, as
// from their stock image.
func (g *guest) restFeatures() config.Features {
	if g.profile.podVM {
		return config.FeatureAll
	}
	return g.cfg.Agent.RESTFeatures
}

// close gives up what the parts hold. Parts that were not reached are nil.
func (g *guest) close(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	var errs []error
	if g.agent != nil {
		errs = append(errs, g.agent.Close(ctx))
	}
	if g.images != nil {
		errs = append(errs, g.images.Close(ctx))
	}
	if g.attest != nil {
		errs = append(errs, g.attest.Close())
	}
	if g.owner != nil {
		errs = append(errs, g.owner.Close())
	}
	return errors.Join(errs...)
}

// path puts an absolute path below the directory that --root names.
func (g *guest) path(p string) string {
	if g.opt.root == "" {
		return p
	}
	return filepath.Join(g.opt.root, p)
}
