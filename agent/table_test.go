// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"cocoon/internal/wire/agentpb"
	"cocoon/internal/wire/typespb"
)

// refusal is a request that is not carried out.
type refusal struct {
	req  proto.Message
	code codes.Code
	text string
}

// rpcRow is one method: requests that succeed, in order, and some that do not.
type rpcRow struct {
	good []proto.Message
	bad  []refusal
}

func unknown(req proto.Message, code codes.Code) refusal {
	return refusal{req, code, "nvalid container id"}
}

// rpcTable has a row for every method. c1 is a container that sleeps, c0 one
// that has ended, and "new" is an id that is free.
func rpcTable(g *guest) map[string]rpcRow {
	invalid, internal := codes.InvalidArgument, codes.Internal
	process := &agentpb.Process{Args: []string{"true"}, Env: []string{"PATH=/bin"}, Cwd: "/", User: &agentpb.User{}}
	shm := &agentpb.Storage{Driver: "ephemeral", Source: "shm", Fstype: "tmpfs", MountPoint: g.paths.Run + "/sandbox/shm"}
	bigger := proto.CloneOf(shm)
	bigger.Options = []string{"remount", "size=1048576"}
	list := func(m ...proto.Message) []proto.Message { return m }
	return map[string]rpcRow{
		"CreateSandbox": {list(&agentpb.CreateSandboxRequest{SandboxId: "pod", Storages: []*agentpb.Storage{shm}}), []refusal{
			{&agentpb.CreateSandboxRequest{}, internal, "sandbox already exists"},
			{&agentpb.CreateSandboxRequest{SandboxId: "../x"}, invalid, "../x"},
		}},
		"CreateContainer": {list(g.container("new", "true")), []refusal{
			{&agentpb.CreateContainerRequest{ContainerId: "new2"}, invalid, "no OCI specification"},
			{g.container("c1", "true"), internal, "already exists"},
			{g.container("/c1", "true"), invalid, "/c1"},
		}},
		"StartContainer":  {list(&agentpb.StartContainerRequest{ContainerId: "new"}), []refusal{unknown(&agentpb.StartContainerRequest{ContainerId: "none"}, internal)}},
		"RemoveContainer": {list(&agentpb.RemoveContainerRequest{ContainerId: "new"}), []refusal{unknown(&agentpb.RemoveContainerRequest{ContainerId: "new"}, internal)}},
		"ExecProcess": {list(&agentpb.ExecProcessRequest{ContainerId: "c1", ExecId: "e1", Process: process}), []refusal{
			unknown(&agentpb.ExecProcessRequest{ContainerId: "none", Process: process}, internal),
			{&agentpb.ExecProcessRequest{ContainerId: "c1", ExecId: "e2"}, invalid, "Unable to parse process"},
		}},
		"SignalProcess": {list(&agentpb.SignalProcessRequest{ContainerId: "c1", ExecId: "c1", Signal: uint32(unix.SIGCONT)}), []refusal{
			unknown(&agentpb.SignalProcessRequest{ContainerId: "none"}, invalid),
			{&agentpb.SignalProcessRequest{ContainerId: "c1", Signal: 65}, invalid, "signal 65"},
		}},
		"WaitProcess": {list(&agentpb.WaitProcessRequest{ContainerId: "c0", ExecId: "c0"}), []refusal{
			unknown(&agentpb.WaitProcessRequest{ContainerId: "none"}, invalid),
			{&agentpb.WaitProcessRequest{ContainerId: "c1", ExecId: "none"}, codes.NotFound, "none"},
		}},
		"UpdateContainer": {list(&agentpb.UpdateContainerRequest{ContainerId: "c1", Resources: &agentpb.LinuxResources{Pids: &agentpb.LinuxPids{Limit: 64}}}),
			[]refusal{unknown(&agentpb.UpdateContainerRequest{ContainerId: "none"}, invalid)}},
		"UpdateEphemeralMounts": {list(&agentpb.UpdateEphemeralMountsRequest{Storages: []*agentpb.Storage{bigger}}), []refusal{
			{&agentpb.UpdateEphemeralMountsRequest{Storages: []*agentpb.Storage{{Driver: "blk", MountPoint: shm.MountPoint}}}, invalid, "cannot be remounted"},
		}},
		"StatsContainer":                 {list(&agentpb.StatsContainerRequest{ContainerId: "c1"}), []refusal{unknown(&agentpb.StatsContainerRequest{ContainerId: "none"}, invalid)}},
		"PauseContainer":                 {list(&agentpb.PauseContainerRequest{ContainerId: "c1"}), []refusal{unknown(&agentpb.PauseContainerRequest{ContainerId: "none"}, invalid)}},
		"ResumeContainer":                {list(&agentpb.ResumeContainerRequest{ContainerId: "c1"}), []refusal{{&agentpb.ResumeContainerRequest{ContainerId: "c1"}, internal, "not paused"}}},
		"RemoveStaleVirtiofsShareMounts": {list(&agentpb.RemoveStaleVirtiofsShareMountsRequest{}), nil},
		"GetDiagnosticData": {nil, []refusal{
			{&agentpb.GetDiagnosticDataRequest{ContainerId: "c1", LogType: "termination_log"}, internal, "no annotation"},
			{&agentpb.GetDiagnosticDataRequest{ContainerId: "c1", LogType: "journal"}, invalid, "journal"},
		}},
		"WriteStdin": {list(&agentpb.WriteStreamRequest{ContainerId: "c1", ExecId: "c1", Data: []byte("x")}), []refusal{unknown(&agentpb.WriteStreamRequest{ContainerId: "none"}, invalid)}},
		"ReadStdout": {list(&agentpb.ReadStreamRequest{ContainerId: "c0", ExecId: "c0", Len: 16}), []refusal{
			{&agentpb.ReadStreamRequest{ContainerId: "c0", ExecId: "c0"}, invalid, "read of 0 bytes"},
		}},
		"ReadStderr":   {list(&agentpb.ReadStreamRequest{ContainerId: "c0", ExecId: "c0", Len: 16}), []refusal{unknown(&agentpb.ReadStreamRequest{ContainerId: "none", Len: 1}, invalid)}},
		"CloseStdin":   {list(&agentpb.CloseStdinRequest{ContainerId: "c1", ExecId: "c1"}), []refusal{unknown(&agentpb.CloseStdinRequest{ContainerId: "none"}, invalid)}},
		"TtyWinResize": {nil, []refusal{{&agentpb.TtyWinResizeRequest{ContainerId: "c1", ExecId: "c1"}, codes.Unavailable, "no tty"}}},
		"UpdateInterface": {list(&agentpb.UpdateInterfaceRequest{Interface: &typespb.Interface{
			Name: "eth0", HwAddr: "02:00:ca:fe:00:01", Mtu: 1400, IPAddresses: []*typespb.IPAddress{{Address: "10.9.0.2", Mask: "24"}},
		}}), []refusal{
			{&agentpb.UpdateInterfaceRequest{}, invalid, "empty"},
			{&agentpb.UpdateInterfaceRequest{Interface: &typespb.Interface{Name: "eth9", HwAddr: "02:00:00:00:00:99"}}, internal, "Link not found"},
		}},
		"UpdateRoutes": {list(&agentpb.UpdateRoutesRequest{Routes: &agentpb.Routes{Routes: []*typespb.Route{{Dest: "10.77.0.0/16", Gateway: "10.9.0.1", Device: "eth0"}}}}),
			[]refusal{{&agentpb.UpdateRoutesRequest{}, invalid, "empty"}}},
		"ListInterfaces": {list(&agentpb.ListInterfacesRequest{}), nil},
		"ListRoutes":     {list(&agentpb.ListRoutesRequest{}), nil},
		"AddARPNeighbors": {list(&agentpb.AddARPNeighborsRequest{Neighbors: &agentpb.ARPNeighbors{ARPNeighbors: []*typespb.ARPNeighbor{{
			ToIPAddress: &typespb.IPAddress{Address: "10.9.0.9"}, Device: "eth0", Lladdr: "02:00:ca:fe:00:09", State: 0x80,
		}}}}), []refusal{{&agentpb.AddARPNeighborsRequest{}, invalid, "empty"}}},
		"GetIPTables":        {nil, []refusal{{&agentpb.GetIPTablesRequest{}, internal, "iptables"}}},
		"SetIPTables":        {nil, []refusal{{&agentpb.SetIPTablesRequest{Data: []byte("*nat\nCOMMIT\n")}, internal, "iptables"}}},
		"GetMetrics":         {list(&agentpb.GetMetricsRequest{}), nil},
		"MemAgentMemcgSet":   {nil, []refusal{{&agentpb.MemAgentMemcgConfig{}, codes.Unimplemented, "MemAgentMemcgSet"}}},
		"MemAgentCompactSet": {nil, []refusal{{&agentpb.MemAgentCompactConfig{}, codes.Unimplemented, "MemAgentCompactSet"}}},
		"OnlineCPUMem":       {list(&agentpb.OnlineCPUMemRequest{CpuOnly: true}), []refusal{{&agentpb.OnlineCPUMemRequest{NbCpus: maxCPUs + 1}, invalid, "processors"}}},
		"MemHotplugByProbe":  {list(&agentpb.MemHotplugByProbeRequest{}), []refusal{{&agentpb.MemHotplugByProbeRequest{MemHotplugProbeAddr: make([]uint64, maxProbes+1)}, invalid, "memory addresses"}}},
		"ReseedRandomDev":    {list(&agentpb.ReseedRandomDevRequest{Data: []byte("not random")}), []refusal{{&agentpb.ReseedRandomDevRequest{}, invalid, "seed of 0 bytes"}}},
		"GetGuestDetails":    {list(&agentpb.GuestDetailsRequest{}), nil},
		"SetGuestDateTime":   {list(&agentpb.SetGuestDateTimeRequest{Sec: time.Now().Unix()}), []refusal{{&agentpb.SetGuestDateTimeRequest{Sec: 1}, invalid, ""}}},
		"CopyFile": {list(&agentpb.CopyFileRequest{Path: g.paths.Shared + "/file", FileMode: unix.S_IFREG | 0o644, FileSize: 1, Data: []byte("x")}), []refusal{
			{&agentpb.CopyFileRequest{Path: "/etc/passwd", FileMode: unix.S_IFREG | 0o644}, invalid, "/etc/passwd"},
		}},
		"GetOOMEvent":  {nil, nil},
		"AddSwap":      {nil, []refusal{{&agentpb.AddSwapRequest{}, codes.Unimplemented, "AddSwap"}}},
		"AddSwapPath":  {nil, []refusal{{&agentpb.AddSwapPathRequest{}, codes.Unimplemented, "AddSwapPath"}}},
		"ResizeVolume": {nil, []refusal{{&agentpb.ResizeVolumeRequest{}, codes.Unimplemented, "ResizeVolume"}}},
		"GetVolumeStats": {list(&agentpb.VolumeStatsRequest{VolumeGuestPath: shm.MountPoint}), []refusal{
			{&agentpb.VolumeStatsRequest{VolumeGuestPath: "/etc"}, invalid, "/etc"},
		}},
		"SetPolicy":      {list(&agentpb.SetPolicyRequest{Policy: allowAllBut("None")}), []refusal{{&agentpb.SetPolicyRequest{Policy: "package"}, invalid, ""}}},
		"DestroySandbox": {list(&agentpb.DestroySandboxRequest{}), []refusal{{&agentpb.DestroySandboxRequest{}, internal, "destroyed"}}},
	}
}

// elsewhere are the methods whose success takes more than a request: a test of
// its own shows it.
func elsewhere() map[string]string {
	return map[string]string{
		"GetDiagnosticData": "TestATerminationMessageIsReadFromTheGuestsFile", "TtyWinResize": "TestATerminalIsResized",
		"GetIPTables": "netconf.TestRulesThatAreRestoredAreSaved", "SetIPTables": "netconf.TestRulesThatAreRestoredAreSaved",
		"GetOOMEvent": "TestAnOOMKillIsReportedOnce",
	}
}

func TestEveryMethodIsCarriedOutAndRefusedAsThePeersKnowIt(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{change: func(d *Deps) { d.SetTime = func(*unix.Timeval) error { return nil } }})
	table := rpcTable(g)
	for m := range reflect.TypeFor[agentpb.AgentServiceService]().Methods() {
		row, there := table[m.Name]
		if !there {
			t.Errorf("%s has no row", m.Name)
		}
		if len(row.good) == 0 && served[m.Name] && elsewhere()[m.Name] == "" {
			t.Errorf("%s: nothing shows that it succeeds", m.Name)
		}
	}
	// What makes something comes before what uses it, what ends it after.
	first := []string{"CreateSandbox", "CreateContainer", "StartContainer", "RemoveContainer", "UpdateInterface", "PauseContainer", "ResumeContainer"}
	last := []string{"CloseStdin", "WaitProcess", "DestroySandbox"}
	order := slices.Clone(first)
	for _, name := range slices.Sorted(maps.Keys(table)) {
		if !slices.Contains(first, name) && !slices.Contains(last, name) {
			order = append(order, name)
		}
	}
	started := func() {
		g.started(t, "c0", "true")
		g.started(t, "c1", "sleep", "1000")
	}
	for _, name := range append(order, last...) {
		for _, req := range table[name].good {
			if err := g.client.Call(limited(t), "grpc.AgentService", name, req, answerOf(name)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if name == "CreateSandbox" {
			started()
		}
		for _, bad := range table[name].bad {
			wantStatus(t, g.client.Call(limited(t), "grpc.AgentService", name, bad.req, answerOf(name)), bad.code, bad.text)
		}
		if name == "DestroySandbox" || name == "PauseContainer" {
			continue
		}
		// Whatever was refused, the sandbox goes on.
		if _, err := g.StatsContainer(limited(t), &agentpb.StatsContainerRequest{ContainerId: "c1"}); err != nil {
			t.Errorf("after %s: %v", name, err)
		}
	}
}

// answerOf makes the message that a method answers with.
func answerOf(method string) proto.Message {
	m, _ := reflect.TypeFor[agentpb.AgentServiceService]().MethodByName(method)
	return reflect.New(m.Type.Out(0).Elem()).Interface().(proto.Message)
}
