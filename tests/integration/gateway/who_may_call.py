"""Who may call each method and each route of a gateway whose callers must authenticate.

The names are roles: a member's key is a client, an admin's key is an admin. `open` is everybody,
and `nobody` is not served.
"""

METHODS = """
/inference.GRPCInferenceService/ModelInfer client admin
/inference.GRPCInferenceService/ModelMetadata client admin
/inference.GRPCInferenceService/ModelReady client admin
/inference.GRPCInferenceService/ModelStreamInfer client admin
/inference.GRPCInferenceService/ServerLive client admin
/inference.GRPCInferenceService/ServerMetadata client admin
/inference.GRPCInferenceService/ServerReady client admin
/mlxmesh.access.v1.AccessService/BeginOidcSignIn open
/mlxmesh.access.v1.AccessService/CompleteOidcSignIn open
/mlxmesh.access.v1.AccessService/CreateKey client admin
/mlxmesh.access.v1.AccessService/CreateUser admin
/mlxmesh.access.v1.AccessService/DeleteQuota admin
/mlxmesh.access.v1.AccessService/DeleteUser admin
/mlxmesh.access.v1.AccessService/GetSignInOptions open
/mlxmesh.access.v1.AccessService/GetUser client admin
/mlxmesh.access.v1.AccessService/ListAuditEntries admin
/mlxmesh.access.v1.AccessService/ListKeys client admin
/mlxmesh.access.v1.AccessService/ListQuotas client admin
/mlxmesh.access.v1.AccessService/ListUsers admin
/mlxmesh.access.v1.AccessService/QueryUsage client admin
/mlxmesh.access.v1.AccessService/RefreshSession open
/mlxmesh.access.v1.AccessService/RevokeKey client admin
/mlxmesh.access.v1.AccessService/SetQuota admin
/mlxmesh.access.v1.AccessService/SignIn open
/mlxmesh.access.v1.AccessService/SignOut open
/mlxmesh.access.v1.AccessService/SignUp open
/mlxmesh.access.v1.AccessService/UpdateUser client admin
/mlxmesh.control.v1.ControlService/Drain gateway admin
/mlxmesh.control.v1.ProcessService/GetProcess gateway
/mlxmesh.control.v1.ProcessService/ListOwnSettings gateway
/mlxmesh.control.v1.ProcessService/WatchOwnLog gateway
/mlxmesh.generation.v1.EmbeddingService/Embed client admin
/mlxmesh.generation.v1.EmbeddingService/Rerank client admin
/mlxmesh.generation.v1.GenerationService/AttachGeneration client admin
/mlxmesh.generation.v1.GenerationService/CancelGeneration client admin
/mlxmesh.generation.v1.GenerationService/Complete client admin
/mlxmesh.generation.v1.GenerationService/CountTokens client admin
/mlxmesh.generation.v1.GenerationService/Generate client admin
/mlxmesh.generation.v1.GenerationService/GetGeneration client admin
/mlxmesh.generation.v1.GenerationService/GetOutputFormat client admin
/mlxmesh.generation.v1.GenerationService/Relay nobody
/mlxmesh.generation.v1.GenerationService/ResumeGeneration nobody
/mlxmesh.job.v1.FileService/AppendFile client admin
/mlxmesh.job.v1.FileService/CreateFile client admin
/mlxmesh.job.v1.FileService/DeleteFile client admin
/mlxmesh.job.v1.FileService/FinishFile client admin
/mlxmesh.job.v1.FileService/GetFile client admin
/mlxmesh.job.v1.FileService/ListFiles client admin
/mlxmesh.job.v1.FileService/ReadFile client admin
/mlxmesh.job.v1.JobService/CancelJob client admin
/mlxmesh.job.v1.JobService/GetJob client admin
/mlxmesh.job.v1.JobService/GetQueue client admin
/mlxmesh.job.v1.JobService/ListJobs client admin
/mlxmesh.job.v1.JobService/ListQueues client admin
/mlxmesh.job.v1.JobService/ListWorkers admin
/mlxmesh.job.v1.JobService/ReadBatch client admin
/mlxmesh.job.v1.JobService/RetryJob client admin
/mlxmesh.job.v1.JobService/SetQueue admin
/mlxmesh.job.v1.JobService/SubmitJob client admin
/mlxmesh.job.v1.JobService/SubmitJobs client admin
/mlxmesh.job.v1.JobService/WatchJob client admin
/mlxmesh.job.v1.JobService/WatchJobs client admin
/mlxmesh.job.v1.TranslationService/RenderResponse open
/mlxmesh.job.v1.TranslationService/TranslateRequest open
/mlxmesh.model.v1.AdapterService/AddAdapter admin
/mlxmesh.model.v1.AdapterService/GetAdapter client admin
/mlxmesh.model.v1.AdapterService/ListAdapters client admin
/mlxmesh.model.v1.AdapterService/RemoveAdapter admin
/mlxmesh.model.v1.ArtifactService/ListArtifacts admin
/mlxmesh.model.v1.ArtifactService/PruneArtifacts admin
/mlxmesh.model.v1.ArtifactService/VerifyArtifacts admin
/mlxmesh.model.v1.EnsembleService/DeleteEnsemble admin
/mlxmesh.model.v1.EnsembleService/GetEnsemble admin
/mlxmesh.model.v1.EnsembleService/ListEnsembles admin
/mlxmesh.model.v1.EnsembleService/SetEnsemble admin
/mlxmesh.model.v1.ExperimentService/AnalyzeExperiment admin
/mlxmesh.model.v1.ExperimentService/GetExperiment admin
/mlxmesh.model.v1.ExperimentService/ListExperiments admin
/mlxmesh.model.v1.ExperimentService/ReportOutcome client admin
/mlxmesh.model.v1.ExperimentService/StartExperiment admin
/mlxmesh.model.v1.ExperimentService/StopExperiment admin
/mlxmesh.model.v1.ExperimentService/WatchExperiment admin
/mlxmesh.model.v1.HistoryService/GetModelHistory client admin
/mlxmesh.model.v1.HistoryService/RecordOutcomes nobody
/mlxmesh.model.v1.HubService/DeleteDownload admin
/mlxmesh.model.v1.HubService/GetHubModel client admin
/mlxmesh.model.v1.HubService/ListDownloads admin
/mlxmesh.model.v1.HubService/PauseDownload admin
/mlxmesh.model.v1.HubService/ResumeDownload admin
/mlxmesh.model.v1.HubService/SearchHub client admin
/mlxmesh.model.v1.HubService/StartDownload admin
/mlxmesh.model.v1.HubService/WatchDownloads admin
/mlxmesh.model.v1.ModelService/DeleteModel admin
/mlxmesh.model.v1.ModelService/GetModel client admin
/mlxmesh.model.v1.ModelService/GetTokenizer nobody
/mlxmesh.model.v1.ModelService/ImportModel admin
/mlxmesh.model.v1.ModelService/ListModels client admin
/mlxmesh.model.v1.ModelService/LoadModel admin
/mlxmesh.model.v1.ModelService/PullModel admin
/mlxmesh.model.v1.ModelService/RegisterModel admin
/mlxmesh.model.v1.ModelService/RegisterUpstream admin
/mlxmesh.model.v1.ModelService/RequestLoad nobody
/mlxmesh.model.v1.ModelService/SetAlias admin
/mlxmesh.model.v1.ModelService/SetModelPolicy admin
/mlxmesh.model.v1.ModelService/SetOutputFormat admin
/mlxmesh.model.v1.ModelService/UnloadModel admin
/mlxmesh.model.v1.ModelService/WatchModels client admin
/mlxmesh.model.v1.ProfileService/DeleteProfile admin
/mlxmesh.model.v1.ProfileService/GetProfile admin
/mlxmesh.model.v1.ProfileService/ListProfiles admin
/mlxmesh.model.v1.ProfileService/SetProfile admin
/mlxmesh.model.v1.RolloutService/AbortRollout admin
/mlxmesh.model.v1.RolloutService/GetRollout admin
/mlxmesh.model.v1.RolloutService/ListRollouts admin
/mlxmesh.model.v1.RolloutService/PauseRollout admin
/mlxmesh.model.v1.RolloutService/PromoteRollout admin
/mlxmesh.model.v1.RolloutService/ResumeRollout admin
/mlxmesh.model.v1.RolloutService/StartRollout admin
/mlxmesh.model.v1.RolloutService/WatchRollout admin
/mlxmesh.model.v1.ShadowService/GetShadowReport admin
/mlxmesh.model.v1.ShadowService/ListShadows admin
/mlxmesh.model.v1.ShadowService/RecordShadowPairs nobody
/mlxmesh.model.v1.ShadowService/StartShadow admin
/mlxmesh.model.v1.ShadowService/StopShadow admin
/mlxmesh.telemetry.v1.LiveService/ListRequests client admin
/mlxmesh.telemetry.v1.LiveService/ReadRequests gateway
/mlxmesh.telemetry.v1.LiveService/Watch client admin
/mlxmesh.telemetry.v1.SystemService/DrainProcess admin
/mlxmesh.telemetry.v1.SystemService/GetSystem admin
/mlxmesh.telemetry.v1.SystemService/ListSettings admin
/mlxmesh.telemetry.v1.SystemService/WatchLog admin
/mlxmesh.telemetry.v1.TelemetryService/GetMeshStatus client admin
/mlxmesh.telemetry.v1.TelemetryService/GetTrace gateway admin
/mlxmesh.telemetry.v1.TelemetryService/GetTraffic gateway
/mlxmesh.telemetry.v1.TelemetryService/PublishEvents gateway generation model runtime
/mlxmesh.telemetry.v1.TelemetryService/WatchEvents admin
/mlxmesh.tool.v1.ToolService/AddServer admin
/mlxmesh.tool.v1.ToolService/CallTool client admin
/mlxmesh.tool.v1.ToolService/ListServers client admin
/mlxmesh.tool.v1.ToolService/ListToolCalls client admin
/mlxmesh.tool.v1.ToolService/ListTools client admin
/mlxmesh.tool.v1.ToolService/RefreshServer admin
/mlxmesh.tool.v1.ToolService/RemoveServer admin
/mlxmesh.tool.v1.ToolService/SetToolPolicy admin
/mlxmesh.tool.v1.ToolService/UpdateServer admin
/opentelemetry.proto.collector.logs.v1.LogsService/Export PROCESSES
/opentelemetry.proto.collector.metrics.v1.MetricsService/Export PROCESSES
/opentelemetry.proto.collector.trace.v1.TraceService/Export PROCESSES
"""

ROUTES = """
GET /health open
GET /healthz open
GET /metrics known
GET /openapi.json open
GET /session open
POST /session open
DELETE /session open
POST /session/oidc open
GET /v1/models client admin
GET /v1/models/{model} client admin
POST /v1/chat/completions client admin
POST /v1/completions client admin
POST /v1/files client admin
GET /v1/files client admin
GET /v1/files/{file_id} client admin
DELETE /v1/files/{file_id} client admin
GET /v1/files/{file_id}/content client admin
POST /v1/batches client admin
GET /v1/batches client admin
GET /v1/batches/{batch_id} client admin
POST /v1/batches/{batch_id}/cancel client admin
POST /v1/embeddings client admin
POST /v1/messages client admin
POST /v1/messages/count_tokens client admin
POST /v1/rerank client admin
POST /v1/responses client admin
GET /v1/responses/{response_id} client admin
DELETE /v1/responses/{response_id} client admin
POST /v1/responses/{response_id}/cancel client admin
GET /v1/responses/{response_id}/input_items client admin
GET /v2 client admin
GET /v2/health/live client admin
GET /v2/health/ready client admin
GET /v2/models/{model} client admin
GET /v2/models/{model}/ready client admin
POST /v2/models/{model}/infer client admin
POST /v2/models/{model}/generate client admin
POST /v2/models/{model}/generate_stream client admin
GET /v2/models/{model}/versions/{version} client admin
GET /v2/models/{model}/versions/{version}/ready client admin
POST /v2/models/{model}/versions/{version}/infer client admin
POST /v2/models/{model}/versions/{version}/generate client admin
POST /v2/models/{model}/versions/{version}/generate_stream client admin
POST /mcp client admin
GET /v1/{path:path} open
GET /v2/{path:path} open
"""

PROCESSES = "gateway generation model runtime engine access jobs worker tools"


def table(text: str) -> dict[str, frozenset[str]]:
    """By method, or by verb and path, the roles that may call it."""
    lines = (line for line in text.replace("PROCESSES", PROCESSES).splitlines() if line)
    split = 2 if text is ROUTES else 1
    found = {}
    for line in lines:
        words = line.split()
        found[" ".join(words[:split])] = frozenset(words[split:])
    return found
