{{- define "sluicegate.name" -}}
{{- $name := .Release.Name }}
{{- if not (contains "sluicegate" $name) }}{{ $name = printf "%s-sluicegate" $name }}{{ end }}
{{- $name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "sluicegate.selector" -}}
app.kubernetes.io/name: sluicegate
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "sluicegate.labels" -}}
{{ include "sluicegate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "sluicegate.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "sluicegate.scheme" -}}
{{ if .Values.tls.existingSecret }}HTTPS{{ else }}HTTP{{ end }}
{{- end }}

{{/* Whoever runs: nobody, with nothing to write to. */}}
{{- define "sluicegate.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "sluicegate.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{- define "sluicegate.env" -}}
- name: SLUICEGATE__STORE__KIND
  value: postgres
- name: SLUICEGATE__STORE__URL
  value: {{ required "postgres.url is needed: postgres://USER@HOST:5432/DATABASE" .Values.postgres.url | quote }}
- name: SLUICEGATE__STORE__PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ required "postgres.existingSecret is needed: the Secret with the password" .Values.postgres.existingSecret }}
      key: {{ .Values.postgres.passwordKey }}
- name: SLUICEGATE__QUEUE__KIND
  value: rabbitmq
- name: SLUICEGATE__QUEUE__URL
  value: {{ required "rabbitmq.url is needed: amqp://USER@HOST:5672/%2f" .Values.rabbitmq.url | quote }}
- name: SLUICEGATE__QUEUE__PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ required "rabbitmq.existingSecret is needed: the Secret with the password" .Values.rabbitmq.existingSecret }}
      key: {{ .Values.rabbitmq.passwordKey }}
- name: SLUICEGATE__LOG__FORMAT
  value: json
{{- if .Values.tls.existingSecret }}
- name: SLUICEGATE__HTTP__TLS_CERT
  value: /etc/sluicegate/tls/tls.crt
- name: SLUICEGATE__HTTP__TLS_KEY
  value: /etc/sluicegate/tls/tls.key
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "sluicegate.mounts" -}}
- name: config
  mountPath: /etc/sluicegate/config
  readOnly: true
{{- if .Values.tls.existingSecret }}
- name: tls
  mountPath: /etc/sluicegate/tls
  readOnly: true
{{- end }}
{{- range $index, $files := .Values.secretFiles }}
- name: files-{{ $index }}
  mountPath: {{ $files.mountPath }}
  readOnly: true
{{- end }}
{{- end }}

{{- define "sluicegate.volumes" -}}
- name: config
  configMap:
    name: {{ include "sluicegate.name" . }}
{{- if .Values.tls.existingSecret }}
- name: tls
  secret:
    secretName: {{ .Values.tls.existingSecret }}
    defaultMode: 0440
{{- end }}
{{- range $index, $files := .Values.secretFiles }}
- name: files-{{ $index }}
  secret:
    secretName: {{ $files.secret }}
    defaultMode: 0440
{{- end }}
{{- end }}
