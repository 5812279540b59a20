{{- define "rolegate.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Of objects: the release's name, so that several releases (one a node pool) do not clash. */}}
{{- define "rolegate.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- $name := include "rolegate.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{/* Immutable in a DaemonSet: these two and no other. */}}
{{- define "rolegate.selectorLabels" -}}
app.kubernetes.io/name: {{ include "rolegate.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "rolegate.labels" -}}
{{ include "rolegate.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: agent
app.kubernetes.io/part-of: rolegate
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* (list . LABELS): these labels, and the usual ones. */}}
{{- define "rolegate.labelsWith" -}}
{{- merge (dict) (index . 1) (include "rolegate.labels" (index . 0) | fromYaml) | toYaml }}
{{- end }}

{{- define "rolegate.createsServiceAccount" -}}
{{- if and .Values.serviceAccount.create (or .Values.rbac.create (not .Values.rbac.serviceAccountName)) }}true{{ end }}
{{- end }}

{{- define "rolegate.serviceAccountName" -}}
{{- if include "rolegate.createsServiceAccount" . }}
{{- default (include "rolegate.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- .Values.serviceAccount.name | default .Values.rbac.serviceAccountName | default "default" }}
{{- end }}
{{- end }}

{{- define "rolegate.image" -}}
{{- $image := .Values.image }}
{{- if $image.digest }}
{{- printf "%s@%s" $image.repository $image.digest }}
{{- else }}
{{- printf "%s:%s" $image.repository (default .Chart.AppVersion $image.tag) }}
{{- end }}
{{- end }}

{{/* Every number in values is a float to Helm: 1000000 must not become 1e+06. */}}
{{- define "rolegate.text" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{/*
The way of redirecting. host.iptables is kube2iam's switch: where it is set, it decides.
*/}}
{{- define "rolegate.redirect" -}}
{{- $iptables := .Values.host.iptables }}
{{- if kindIs "bool" $iptables }}
{{- $means := ternary "iptables" "none" $iptables }}
{{- if and .Values.redirect (ne .Values.redirect $means) }}
{{- fail (printf "host.iptables: %t means redirect: %s, and redirect says %s. Give one of them." $iptables $means .Values.redirect) }}
{{- end }}
{{- $means }}
{{- else }}
{{- default "iptables" .Values.redirect }}
{{- end }}
{{- end }}

{{/* The key of the startup taint, or nothing. */}}
{{- define "rolegate.startupTaint" -}}
{{- if .Values.startupTaint.enabled }}{{ .Values.startupTaint.key }}{{ end }}
{{- end }}

{{/* The agent's arguments: values that have a flag, one line each, then extraArgs. */}}
{{- define "rolegate.args" -}}
{{- $v := .Values }}
{{- $redirect := include "rolegate.redirect" . }}
{{- $flags := dict "node" "$(NODE_NAME)" "redirect" $redirect }}
{{- $_ := set $flags "host-interface" $v.host.interface }}
{{- if and $v.host.ip (ne $redirect "route") }}{{ $_ := set $flags "host-ip" $v.host.ip }}{{ end }}
{{- $_ := set $flags "app-port" $v.host.port }}
{{- $_ := set $flags "metrics-port" $v.prometheus.metricsPort }}
{{- $_ := set $flags "state-dir" $v.stateDir }}
{{- $_ := set $flags "cni-results" $v.cniResults }}
{{- if include "rolegate.startupTaint" . }}{{ $_ := set $flags "startup-taint" (include "rolegate.startupTaint" .) }}{{ end }}
{{- if $v.verbose }}{{ $_ := set $flags "verbose" true }}{{ end }}
{{- $typed := dict
  "profile" $v.profile
  "log-format" $v.logFormat
  "log-level" $v.logLevel
  "base-role-arn" $v.baseRoleArn
  "default-role" $v.defaultRole
  "allow-node-role" $v.allowNodeRole
  "session-name" $v.sessionName
  "session-duration" $v.sessionDuration
  "iam-role-session-ttl" $v.iamRoleSessionTtl
  "namespace-restrictions" $v.namespaceRestrictions
  "namespace-restriction-format" $v.namespaceRestrictionFormat
  "imds-v1" $v.imdsV1
  "metadata-allow" $v.metadataAllow
  "token-hop-limit" $v.tokenHopLimit
  "shared-l2" $v.sharedL2
  "rule-preference" $v.rulePreference
  "route-table" $v.routeTable
  "region" $v.aws.region
}}
{{- range $flag, $value := $typed }}
{{- if not (or (kindIs "invalid" $value) (eq (toString $value) "") (eq (toString $value) "[]")) }}
{{- $_ := set $flags $flag $value }}
{{- end }}
{{- end }}
{{- $discover := $v.autoDiscoverBaseArn }}
{{- $extra := $v.extraArgs | default dict }}
{{- if kindIs "invalid" $discover }}
{{- $discover = not (or $v.baseRoleArn (hasKey $extra "base-role-arn") (hasKey $extra "auto-discover-base-arn")) }}
{{- if $discover }}{{ $_ := set $flags "auto-discover-base-arn" true }}{{ end }}
{{- else }}
{{- $_ := set $flags "auto-discover-base-arn" $discover }}
{{- end -}}
{{- if eq (int $v.host.port) (int $v.prometheus.metricsPort) }}
{{- fail (printf "prometheus.metricsPort: %v is host.port as well. The kubelet's probes need a port of their own: leave it out for 9543." $v.prometheus.metricsPort) }}
{{- end }}
{{- if regexMatch "(^|/)kube2iam(@|$)" $v.image.repository }}
{{- fail (printf "image.repository: %s is kube2iam's image. Say where rolegate's is, and leave out its tag." $v.image.repository) }}
{{- end -}}
- run
{{- range $flag, $value := $flags }}
{{- if kindIs "slice" $value }}
- {{ printf "--%s=%s" $flag (join "," $value) | quote }}
{{- else }}
- {{ printf "--%s=%s" $flag (include "rolegate.text" $value) | quote }}
{{- end }}
{{- end }}
{{- range $flag, $value := $extra }}
{{- if eq $flag "iptables" }}
{{- fail "extraArgs.iptables: say it with host.iptables, or with redirect." }}
{{- end }}
{{- if and (eq $flag "startup-taint") (not $v.startupTaint.enabled) }}
{{- fail "extraArgs.startup-taint: say it with startupTaint.enabled, which gives the rights as well." }}
{{- end }}
{{- if hasKey $flags $flag }}
{{- fail (printf "extraArgs.%s: the chart itself gives --%s=%v. Set its own value (see values.yaml) and take it out of extraArgs." $flag $flag (get $flags $flag)) }}
{{- end }}
{{- if or (kindIs "invalid" $value) (eq (toString $value) "") }}
- {{ printf "--%s" $flag | quote }}
{{- else if kindIs "slice" $value }}
- {{ printf "--%s=%s" $flag (join "," $value) | quote }}
{{- else }}
- {{ printf "--%s=%s" $flag (include "rolegate.text" $value) | quote }}
{{- end }}
{{- end }}
{{- end }}
