// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package tool

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"cocoon/attest/eventlog"
	"cocoon/attest/tee/azvtpm"
	"cocoon/attest/tee/snp"
	"cocoon/attest/tee/tdx"
	"cocoon/attest/tee/tpm"
	"cocoon/internal/bounded"
	"cocoon/internal/wire/aapb"
)

// maxEvidence bounds a file of evidence, in bytes.
const maxEvidence = 8 << 20

const explainHead = `%s evidence. This is what it claims. That it holds only a verifier can tell,
who knows the vendor's keys and what the values should be.

`

// fact is a line of an explanation.
type fact struct {
	// worrying is what an owner will hardly want.
	worrying    bool
	topic, text string
}

// facts collects them.
type facts []fact

func (f *facts) say(topic, format string, args ...any) {
	*f = append(*f, fact{topic: topic, text: fmt.Sprintf(format, args...)})
}

// mind says one thing or, in the worrying case, another.
func (f *facts) mind(worrying bool, topic, bad, good string) {
	text := good
	if worrying {
		text = bad
	}
	*f = append(*f, fact{worrying, topic, text})
}

// errNotExplained is returned for evidence that this code knows nothing about.
var errNotExplained = errors.New("cannot explain the evidence of this TEE")

// explainers read evidence, by name of the TEE.
func explainers() map[string]func([]byte) (facts, error) {
	return map[string]func([]byte) (facts, error){
		"sample": explainSample, "sampledevice": explainSample, "snp": explainSNP, "tdx": explainTDX,
		"az-snp-vtpm": explainAzure, "az-tdx-vtpm": explainAzure, "tpm": explainTPM,
	}
}

// printExplanation says in words what the agent's evidence claims, or that in a
// file.
func printExplanation(ctx context.Context, o options, out io.Writer) error {
	tee, evidence := o.tee, []byte(nil)
	var err error
	switch {
	case len(o.args) == 1 && tee == "":
		return fmt.Errorf("%w: -tee says of which TEE the evidence in %.64q is", errUsage, o.args[0])
	case len(o.args) == 1:
		evidence, err = readEvidence(o.args[0])
	default:
		tee, evidence, err = askForBoth(ctx, o.socket)
	}
	if err != nil {
		return err
	}
	explain, ok := explainers()[tee]
	if !ok {
		return fmt.Errorf("%w: %.32q", errNotExplained, tee)
	}
	all, err := explain(evidence)
	if err != nil {
		return fmt.Errorf("%s evidence: %w", tee, err)
	}
	fmt.Fprintf(out, explainHead, tee)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, f := range all {
		mark := " "
		if f.worrying {
			mark = "!"
		}
		fmt.Fprintf(w, "%s %s\t%s\n", mark, f.topic, f.text)
	}
	return w.Flush()
}

func readEvidence(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() // opened to read; its error says nothing
	return bounded.ReadAll(f, maxEvidence)
}

// askForBoth returns the TEE and evidence about no request in particular.
func askForBoth(ctx context.Context, socket string) (tee string, evidence []byte, err error) {
	err = ask(ctx, socket, func(c aapb.AttestationAgentServiceService) error {
		t, err := c.GetTeeType(ctx, &aapb.GetTeeTypeRequest{})
		if err != nil {
			return err
		}
		e, err := c.GetEvidence(ctx, &aapb.GetEvidenceRequest{RuntimeData: []byte("cocoon attest explain")})
		tee, evidence = t.GetTee(), e.GetEvidence()
		return err
	})
	return tee, evidence, err
}

func explainSample([]byte) (facts, error) {
	return facts{{true, "hardware", "none: anybody can make this evidence, with any claim"}}, nil
}

func explainSNP(raw []byte) (f facts, err error) {
	var e snp.Evidence
	if err := json.Unmarshal(raw, &e); err != nil {
		return nil, err
	}
	if e.Report == nil {
		return nil, snp.ErrReport
	}
	f.report(e.Report)
	if len(e.Certs) == 0 {
		f.say("certificate", "none comes along: the verifier has to have it or ask AMD's key service")
	}
	for _, c := range e.Certs {
		f.say("certificate", "%s of %d bytes comes along", c.Kind, len(c.Data))
	}
	return f, nil
}

// report says what a report of SNP is about.
func (f *facts) report(r *snp.Report) {
	if product, err := r.Product(); err == nil {
		f.say("processor", "AMD %s, report of version %d", product, r.Version())
	} else {
		f.mind(true, "processor", fmt.Sprintf("unknown, report of version %d: %v", r.Version(), err), "")
	}
	tcb := r.ReportedTCB()
	f.say("firmware", "bootloader %d, TEE %d, SNP %d, microcode %d", tcb.Bootloader, tcb.TEE, tcb.SNP, tcb.Microcode)
	signer := "VCEK, the key of this one processor"
	if r.SignedByVLEK() {
		signer = "VLEK, a key of the cloud provider"
	}
	f.say("signed by", "%s", signer)
	masked := zero(r.ChipID())
	f.mind(masked && !r.SignedByVLEK(), "chip id", "masked: no certificate can be found for it", text(r.ChipID()))
	f.say("launched with", "measurement %x: the firmware, and what its build includes of kernel, initrd and command line", r.Measurement())
	f.initData("HOST_DATA", r.HostData())
	p := r.Policy()
	f.mind(p.Debug(), "debugging", "ALLOWED: the host can read the guest's memory", "forbidden")
	f.mind(p.MigrationAgent(), "migration", "ALLOWED: an agent of the host's may move the guest", "forbidden")
	f.mind(r.VMPL() != 0, "privilege", fmt.Sprintf("VMPL %d: a paravisor stands above whoever asked", r.VMPL()), "VMPL 0")
	smt, tsme := r.PlatformInfo().SMT(), r.PlatformInfo().TSME()
	f.say("machine", "hyper-threading %s, encryption of all memory %s", onOff(smt), onOff(tsme))
	f.say("about", "report data %x", r.ReportData())
}

// initData says what is declared of the owner's document.
func (f *facts) initData(register string, value []byte) {
	if zero(value) {
		f.say("initdata", "none was declared at launch (%s is zero)", register)
		return
	}
	f.say("initdata", "%s is %x: the digest of the document that the guest was launched with", register, value)
}

func explainTDX(raw []byte) (f facts, err error) {
	var e tdx.Evidence
	if err := json.Unmarshal(raw, &e); err != nil {
		return nil, err
	}
	q, err := tdx.ParseQuote(e.Quote)
	if err != nil {
		return nil, err
	}
	f.quote(q)
	if e.EventLog == nil {
		f.say("event log", "none comes along: nothing says how the RTMRs came about")
		return f, nil
	}
	var registers [][]byte
	for i := range 4 {
		registers = append(registers, q.Field(fmt.Sprintf("rtmr_%d", i)))
	}
	return f, f.log(e.EventLog, eventlog.SHA384, "RTMR", 1, registers)
}

// quote says what a quote of TDX is about.
func (f *facts) quote(q *tdx.Quote) {
	f.say("processor", "Intel, a quote by its quoting enclave")
	f.mind(q.Attributes().Debug(), "debugging", "ALLOWED: the host can read the guest's memory", "forbidden")
	f.say("launched with", "MRTD %x: the firmware", q.Field("mr_td"))
	for i, what := range []string{"firmware's configuration", "kernel, or what the firmware started", "command line and initrd", "what the guest measured while it ran"} {
		f.say(fmt.Sprintf("RTMR%d", i), "%s: %s", text(q.Field(fmt.Sprintf("rtmr_%d", i))), what)
	}
	f.initData("MRCONFIGID", q.ConfigID())
	var on []string
	for name, set := range q.Attributes().Named() {
		if set {
			on = append(on, name)
		}
	}
	slices.Sort(on)
	f.say("attributes", "%s", cmp.Or(strings.Join(on, ", "), "none"))
	f.say("about", "report data %x", q.ReportData())
}

// log says whether a log gives the values of the registers, the first of which
// it calls first.
func (f *facts) log(raw []byte, a eventlog.Alg, name string, first int, registers [][]byte) error {
	l, err := eventlog.Parse(raw)
	if err != nil {
		return err
	}
	sums, err := l.Replay(a)
	if err != nil {
		return err
	}
	bad := ""
	for i, got := range registers {
		want, ok := sums[uint32(i+first)]
		if ok && !bytes.Equal(got, want) {
			bad += fmt.Sprintf(" %s%d", name, i)
		}
	}
	agents := 0
	for _, e := range l.Events {
		if _, ok := e.AsEntry(); ok {
			agents++
		}
	}
	f.mind(bad != "", "event log", "does not give the values of"+bad, fmt.Sprintf("%d entries, %d of them the agent's, which give the registers' values", len(l.Events), agents))
	return nil
}

func explainAzure(raw []byte) (f facts, err error) {
	var e azvtpm.Evidence
	if err := json.Unmarshal(raw, &e); err != nil {
		return nil, err
	}
	h, err := azvtpm.ParseHCL(e.HCL)
	if err != nil {
		return nil, err
	}
	f.say("paravisor", "its report holds the key of the TPM, %d bits", h.AK.N.BitLen())
	if h.Kind == azvtpm.SNP {
		r, err := snp.ParseReport(h.Hardware)
		if err != nil {
			return nil, err
		}
		f.report(r)
	} else {
		q, err := tdx.ParseQuote(e.TDQuote)
		if err != nil {
			return nil, err
		}
		f.quote(q)
	}
	f.say("request", "the paravisor was asked about %x", bytes.TrimRight(h.UserData, "\x00"))
	pcrs := make([][]byte, 0, len(e.Quote.PCRs))
	for _, v := range e.Quote.PCRs {
		pcrs = append(pcrs, v)
	}
	return f, f.registers(pcrs, e.EventLog)
}

func explainTPM(raw []byte) (f facts, err error) {
	var e tpm.Evidence
	if err := json.Unmarshal(raw, &e); err != nil {
		return nil, err
	}
	f.mind(true, "hardware", "a TPM, which says nothing about the machine around it", "")
	f.say("signed by", "the key with the public part %x", e.AKPublic)
	var pcrs [][]byte
	for i, v := range e.Quote.PCRs {
		b, err := hex.DecodeString(v)
		if err != nil {
			return nil, fmt.Errorf("PCR %d: %w", i, err)
		}
		pcrs = append(pcrs, b)
	}
	return f, f.registers(pcrs, e.EventLog)
}

// registers says what a TPM's are about.
func (f *facts) registers(pcrs [][]byte, log []byte) error {
	if len(pcrs) != tpm.PCRs {
		return fmt.Errorf("%d PCRs, want %d", len(pcrs), tpm.PCRs)
	}
	f.say("PCR 0", "%s: the firmware", text(pcrs[0]))
	f.say("PCR 4", "%s: the boot loader, or the unified kernel image", text(pcrs[4]))
	f.say("PCR 7", "%s: the keys of secure boot", text(pcrs[7]))
	f.say("PCR 8", "%s: the initdata, if the guest has bound some", text(pcrs[tpm.InitPCR]))
	f.say("PCR 11", "%s: kernel, initrd and command line of the unified kernel image", text(pcrs[11]))
	if log == nil {
		f.say("event log", "none comes along")
		return nil
	}
	return f.log(log, eventlog.SHA256, "PCR ", 0, pcrs)
}

func zero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// text is b in hexadecimal, or says that it is zero.
func text(b []byte) string {
	if zero(b) {
		return "zero"
	}
	return hex.EncodeToString(b)
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}
