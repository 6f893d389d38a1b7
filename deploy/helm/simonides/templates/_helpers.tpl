{{- define "simonides.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{- define "simonides.labels" -}}
app.kubernetes.io/name: simonides
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "simonides.selector" -}}
app.kubernetes.io/name: simonides
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "simonides.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "simonides.account" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "simonides.name" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end }}

{{- define "simonides.storeSecret" -}}
{{- if .Values.store.existingSecret -}}
{{ .Values.store.existingSecret }}
{{- else if or .Values.store.url .Values.postgres.enabled -}}
{{ include "simonides.name" . }}-store
{{- else -}}
{{ fail "say where the store is: store.existingSecret, store.url, or postgres.enabled=true for a trial" }}
{{- end -}}
{{- end }}

{{- define "simonides.cacheSecret" -}}
{{- if .Values.cache.existingSecret -}}
{{ .Values.cache.existingSecret }}
{{- else if or .Values.cache.url .Values.valkey.enabled -}}
{{ include "simonides.name" . }}-cache
{{- end -}}
{{- end }}

{{/* The password of a trial's engine: what was made at the first installation stays. */}}
{{- define "simonides.password" -}}
{{- $secret := lookup "v1" "Secret" .root.Release.Namespace .secret -}}
{{- if and $secret (index ($secret.data | default dict) .key) -}}
{{ index $secret.data .key | b64dec }}
{{- else -}}
{{ randAlphaNum 40 }}
{{- end -}}
{{- end }}

{{/* What a pod of ours is, beside its command and its probes. */}}
{{- define "simonides.pod" -}}
serviceAccountName: {{ include "simonides.account" .root }}
automountServiceAccountToken: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
terminationGracePeriodSeconds: {{ add .own.drainSeconds 15 }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "simonides.selector" . | nindent 8 }}
{{- with .own.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .own.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .own.affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
volumes:
  - name: tmp
    emptyDir: {medium: Memory, sizeLimit: 64Mi}
  - name: data
    emptyDir: {}
  - name: secrets
    projected:
      defaultMode: 0440
      sources:
        - secret:
            name: {{ include "simonides.storeSecret" .root }}
            items: [{key: {{ .root.Values.store.key }}, path: store_url}]
        {{- with include "simonides.cacheSecret" .root }}
        - secret:
            name: {{ . }}
            items: [{key: {{ $.root.Values.cache.key }}, path: cache_url}]
        {{- end }}
        {{- range $name, $from := .root.Values.secretSettings }}
        - secret:
            name: {{ $from.secret }}
            items: [{key: {{ $from.key }}, path: {{ $name }}}]
        {{- end }}
{{- end }}

{{/* What a container of ours is, beside its command, its ports and its probes. */}}
{{- define "simonides.container" -}}
image: {{ include "simonides.image" .root }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
envFrom:
  - configMapRef: {name: {{ include "simonides.name" .root }}}
env:
  - {name: SIMONIDES_URL_FILE, value: /run/secrets/simonides/store_url}
  {{- if include "simonides.cacheSecret" .root }}
  - {name: SIMONIDES_CACHE_FILE, value: /run/secrets/simonides/cache_url}
  {{- end }}
  {{- range $name, $from := .root.Values.secretSettings }}
  - {name: SIMONIDES_{{ upper $name }}_FILE, value: /run/secrets/simonides/{{ $name }}}
  {{- end }}
  {{- if eq .part "api" }}
  - {name: SIMONIDES_WORK, value: elsewhere}
  {{- end }}
  - {name: SIMONIDES_DRAIN_SECONDS, value: {{ .own.drainSeconds | quote }}}
resources: {{- toYaml .own.resources | nindent 2 }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  - {name: data, mountPath: /data}
  - {name: secrets, mountPath: /run/secrets/simonides, readOnly: true}
{{- end }}
