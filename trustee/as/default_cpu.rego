# Copyright The Cocoon Authors.
# SPDX-License-Identifier: Apache-2.0

# Built-in attestation policy of class cpu: which trust claims the evidence
# earns against the reference values. Numbers are those of AR4SI: 2 and 3 are
# affirming, 33 and 36 a warning, 97 contraindicated.
package policy

default executables := 33

default hardware := 97

default configuration := 36

trust_claims := {
	"executables": executables,
	"hardware": hardware,
	"configuration": configuration,
	"instance-identity": 0,
	"file-system": 0,
	"runtime-opaque": 0,
	"storage-opaque": 0,
	"sourced-data": 0,
}

executables := 3 if listed("launch_digest", input.sample.launch_digest)

hardware := 2 if {
	listed("svn", input.sample.svn)
	input.sample.platform_version.major == query_reference_value("major_version")
	least := query_reference_value("minimum_minor_version")
	is_number(least) # null orders below every number
	input.sample.platform_version.minor >= least
}

configuration := 2 if input.sample.debug == false

listed(name, value) if {
	values := query_reference_value(name)
	is_array(values)
	value in values
}

# SEV-SNP. The names of reference values are those of Trustee's own policy.
executables := 3 if listed("snp_launch_measurement", input.snp.measurement)

hardware := 2 if {
	listed("snp_bootloader", input.snp.reported_tcb_bootloader)
	listed("snp_microcode", input.snp.reported_tcb_microcode)
	listed("snp_snp_svn", input.snp.reported_tcb_snp)
	listed("snp_tee_svn", input.snp.reported_tcb_tee)
}

snp_closed if {
	input.snp.policy_debug_allowed == false
	input.snp.policy_migrate_ma == false
}

snp_as_configured if {
	every name, value in snp_settings { query_reference_value(name) == value }
}

snp_settings := {
	"snp_smt_enabled": input.snp.platform_smt_enabled,
	"snp_tsme_enabled": input.snp.platform_tsme_enabled,
	"snp_guest_abi_major": input.snp.policy_abi_major,
	"snp_guest_abi_minor": input.snp.policy_abi_minor,
	"snp_single_socket": input.snp.policy_single_socket,
	"snp_smt_allowed": input.snp.policy_smt_allowed,
}

configuration := 2 if {
	snp_closed
	snp_as_configured
}

configuration := 3 if {
	snp_closed
	not snp_as_configured
}

reasons contains unlisted(pair[0], pair[1]) if {
	input.snp
	some pair in [
		["snp_launch_measurement", input.snp.measurement],
		["snp_bootloader", input.snp.reported_tcb_bootloader],
		["snp_microcode", input.snp.reported_tcb_microcode],
		["snp_snp_svn", input.snp.reported_tcb_snp],
		["snp_tee_svn", input.snp.reported_tcb_tee],
	]
	not listed(pair[0], pair[1])
}

reasons contains "the guest's launch policy allows debugging or a migration agent" if {
	input.snp
	not snp_closed
}

# TDX.
tdx_registers if {
	listed("rtmr_1", input.tdx.quote.body.rtmr_1)
	listed("rtmr_2", input.tdx.quote.body.rtmr_2)
}

# What the firmware has logged of a kernel that QEMU handed over.
tdx_kernel if {
	some e in input.tdx.uefi_event_logs
	e.type_name == "EV_EFI_BOOT_SERVICES_APPLICATION"
	"File(kernel)" in e.details.device_paths
	some d in e.digests
	d.digest == query_reference_value("tdvfkernel")
}

tdx_cmdline if {
	some e in input.tdx.uefi_event_logs
	e.type_name == "EV_EVENT_TAG"
	e.details.string == "LOADED_IMAGE::LoadOptions"
	some d in e.digests
	d.digest == query_reference_value("tdvfkernelparams")
}

tdx_logged if {
	tdx_kernel
	tdx_cmdline
}

executables := 3 if {
	tdx_registers
	tdx_logged
}

executables := 4 if {
	tdx_registers
	not tdx_logged
}

hardware := 2 if {
	input.tdx.quote.header.tee_type == "81000000"
	input.tdx.quote.header.vendor_id == "939a7233f79c4ca9940a0db3957f0607"
	listed("mr_td", input.tdx.quote.body.mr_td)
	input.tdx.tcb_status == "UpToDate"
	input.tdx.collateral_expiration_status == "0"
}

configuration := 2 if {
	input.tdx.td_attributes.debug == false
	listed("xfam", input.tdx.quote.body.xfam)
}

reasons contains unlisted(name, value) if {
	some name in ["mr_td", "rtmr_1", "rtmr_2", "xfam"]
	value := input.tdx.quote.body[name]
	not listed(name, value)
}

reasons contains sprintf("the platform's TCB status is %v, want UpToDate", [input.tdx.tcb_status]) if input.tdx.tcb_status != "UpToDate"

reasons contains "the collateral of the quote has expired" if {
	input.tdx
	input.tdx.collateral_expiration_status != "0"
}

reasons contains "the trust domain can be debugged by the host" if input.tdx.td_attributes.debug != false

# Azure. Claims of this SNP verifier are texts, the measurement is in base64.
az_snp := input["az-snp-vtpm"]

az_tdx := input["az-tdx-vtpm"]

# A host can lay a command line, credentials and extensions beside a unified
# kernel image. Its stub extends these registers before it uses them, and no
# other: the image that PCR 11 names may run with any command line. Trustee does
# not look at them; here they count as soon as there are reference values.
beside(prefix, tpm) := [[sprintf("%s_pcr12", [prefix]), tpm.pcr12], [sprintf("%s_pcr13", [prefix]), tpm.pcr13]]

added(prefix, tpm) := [pair |
	some pair in beside(prefix, tpm)
	query_reference_value(pair[0]) != null
	not listed(pair[0], pair[1])
]

executables := 3 if {
	listed("measurement", az_snp.measurement)
	listed("snp_pcr11", az_snp.tpm.pcr11)
	count(added("snp", az_snp.tpm)) == 0
}

hardware := 2 if {
	listed("tcb_bootloader", az_snp.reported_tcb_bootloader)
	listed("tcb_microcode", az_snp.reported_tcb_microcode)
	listed("tcb_snp", az_snp.reported_tcb_snp)
	listed("tcb_tee", az_snp.reported_tcb_tee)
}

configuration := 2 if {
	az_snp.policy_debug_allowed == "false"
	listed("smt_enabled", az_snp.platform_smt_enabled)
	listed("tsme_enabled", az_snp.platform_tsme_enabled)
	listed("abi_major", az_snp.policy_abi_major)
	listed("abi_minor", az_snp.policy_abi_minor)
	listed("single_socket", az_snp.policy_single_socket)
	listed("smt_allowed", az_snp.policy_smt_allowed)
}

executables := 3 if {
	listed("tdx_pcr11", az_tdx.tpm.pcr11)
	count(added("tdx", az_tdx.tpm)) == 0
}

hardware := 2 if {
	az_tdx.quote.header.tee_type == "81000000"
	az_tdx.quote.header.vendor_id == "939a7233f79c4ca9940a0db3957f0607"
	listed("mr_td", az_tdx.quote.body.mr_td)
	az_tdx.tcb_status == "UpToDate"
}

configuration := 2 if {
	az_tdx.td_attributes.debug == false
	listed("xfam", az_tdx.quote.body.xfam)
}

reasons contains unlisted(pair[0], pair[1]) if {
	some pair in [
		["measurement", az_snp.measurement],
		["snp_pcr11", az_snp.tpm.pcr11],
		["tcb_bootloader", az_snp.reported_tcb_bootloader],
		["tcb_microcode", az_snp.reported_tcb_microcode],
		["tcb_snp", az_snp.reported_tcb_snp],
		["tcb_tee", az_snp.reported_tcb_tee],
		["smt_enabled", az_snp.platform_smt_enabled],
		["tsme_enabled", az_snp.platform_tsme_enabled],
		["abi_major", az_snp.policy_abi_major],
		["abi_minor", az_snp.policy_abi_minor],
		["single_socket", az_snp.policy_single_socket],
		["smt_allowed", az_snp.policy_smt_allowed],
	]
	not listed(pair[0], pair[1])
}

reasons contains unlisted(pair[0], pair[1]) if {
	some pair in [["tdx_pcr11", az_tdx.tpm.pcr11], ["mr_td", az_tdx.quote.body.mr_td], ["xfam", az_tdx.quote.body.xfam]]
	not listed(pair[0], pair[1])
}

reasons contains sprintf("the platform's TCB status is %v, want UpToDate", [az_tdx.tcb_status]) if az_tdx.tcb_status != "UpToDate"

# CSV. The names of its reference values are Cocoon's: Trustee's policy knows
# nothing of it.
hardware := 2 if input.csv

executables := 3 if listed("csv_measure", input.csv.measure)

# Older reports are signed under a mask that is not: their policy says something
# only beside a measurement that is right.
configuration := 2 if {
	input.csv.policy.nodbg == 1
	listed("csv_measure", input.csv.measure)
}

reasons contains unlisted("csv_measure", input.csv.measure) if {
	input.csv
	not listed("csv_measure", input.csv.measure)
}

reasons contains "the guest can be debugged by the host" if {
	input.csv
	input.csv.policy.nodbg != 1
}

# Arm CCA. The names of its reference values are Cocoon's: Trustee compares the
# platform elsewhere and has no rules for the realm. The verifier accepts
# platforms in a secured state only.
cca := input.cca

cca_unlisted contains value if {
	some component in cca.platform["cca-platform-sw-components"]
	value := component["measurement-value"]
	not listed("cca_platform_measurements", value)
}

hardware := 2 if {
	cca
	count(cca_unlisted) == 0
}

executables := 3 if listed("cca_realm_initial_measurement", cca.realm["cca-realm-initial-measurement"])

configuration := 2 if listed("cca_platform_config", cca.platform["cca-platform-config"])

reasons contains unlisted("cca_platform_measurements", value) if some value in cca_unlisted

reasons contains unlisted("cca_realm_initial_measurement", cca.realm["cca-realm-initial-measurement"]) if {
	not listed("cca_realm_initial_measurement", cca.realm["cca-realm-initial-measurement"])
}

reasons contains unlisted("cca_platform_config", cca.platform["cca-platform-config"]) if {
	not listed("cca_platform_config", cca.platform["cca-platform-config"])
}

# IBM Secure Execution. The verifier accepts listed images on machines with a
# listed host key only, so that nothing is left to compare, as in Trustee.
hardware := 2 if input.se

executables := 3 if input.se

configuration := 2 if input.se

# A plain TPM. Its key was trusted by the verifier; nothing is known of the
# machine around it.
hardware := 2 if input.tpm

executables := 3 if {
	listed("tpm_pcr11", input.tpm.pcr11)
	listed("trusted_aks", input.tpm.ak_public)
	count(added("tpm", input.tpm)) == 0
}

configuration := 0 if input.tpm

reasons contains unlisted(pair[0], pair[1]) if {
	some pair in [["tpm_pcr11", input.tpm.pcr11], ["trusted_aks", input.tpm.ak_public]]
	not listed(pair[0], pair[1])
}

reasons contains sprintf("something lies beside the image: %s", [unlisted(pair[0], pair[1])]) if {
	some machine in machines
	some pair in added(machine[0], machine[1])
}

machines contains ["snp", az_snp.tpm]

machines contains ["tdx", az_tdx.tpm]

machines contains ["tpm", input.tpm]

known if az_snp

known if az_tdx

known if cca

known if input.csv

known if input.sample

known if input.se

known if input.snp

known if input.tdx

known if input.tpm

reasons contains "no rule of this attestation policy knows the TEE" if not known

reasons contains unlisted(name, value) if {
	some name in ["launch_digest", "svn"]
	value := input.sample[name]
	not listed(name, value)
}

reasons contains sprintf("platform major version %v differs from reference value major_version %v", [value, query_reference_value("major_version")]) if {
	value := input.sample.platform_version.major
	value != query_reference_value("major_version")
}

reasons contains sprintf("platform minor version %v is below reference value minimum_minor_version %v", [value, least]) if {
	value := input.sample.platform_version.minor
	least := query_reference_value("minimum_minor_version")
	is_number(least)
	value < least
}

reasons contains "reference value minimum_minor_version is missing, expired, or no number" if {
	input.sample
	not is_number(query_reference_value("minimum_minor_version"))
}

reasons contains "the sample TEE is in debug mode" if {
	input.sample
	not configuration == 2
}

unlisted(name, _) := sprintf("reference value %s is missing, expired, or no list", [name]) if {
	not is_array(query_reference_value(name))
}

unlisted(name, value) := sprintf("%s %v is not in reference value %s %v", [name, value, name, values]) if {
	values := query_reference_value(name)
	is_array(values)
}
