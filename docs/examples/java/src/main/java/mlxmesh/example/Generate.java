package mlxmesh.example;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.StatusException;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.BlockingClientCall;
import java.util.concurrent.TimeUnit;
import mlxmesh.common.v1.SamplingOuterClass.Sampling;
import mlxmesh.generation.v1.Generation.GenerateRequest;
import mlxmesh.generation.v1.Generation.GenerateResponse;
import mlxmesh.generation.v1.Generation.Usage;
import mlxmesh.generation.v1.GenerationServiceGrpc;

/** Streams one answer: java -cp "target/classes:target/lib/*" mlxmesh.example.Generate PROMPT */
public final class Generate {
  private Generate() {}

  public static void main(String[] args) throws Exception {
    String prompt = args.length > 0 ? args[0] : "Once upon a time";
    int maxCharacters = args.length > 1 ? Integer.parseInt(args[1]) : Integer.MAX_VALUE;
    ManagedChannel channel =
        Grpc.newChannelBuilder(
                env("MLXMESH_ADDRESS", "localhost:50051"), InsecureChannelCredentials.create())
            .build();
    try {
      show(start(channel, prompt), maxCharacters);
    } catch (StatusException error) {
      System.err.println(explain(error));
      System.exit(1);
    } finally {
      channel.shutdownNow();
    }
  }

  private static BlockingClientCall<?, GenerateResponse> start(
      ManagedChannel channel, String prompt) {
    GenerateRequest request =
        GenerateRequest.newBuilder()
            .setModel(env("MLXMESH_EXAMPLE_MODEL", "pocket"))
            .setPrompt(prompt)
            .setMaxTokens(60)
            .setSampling(Sampling.newBuilder().setTemperature(0.7f))
            .build();
    return GenerationServiceGrpc.newBlockingV2Stub(channel)
        .withDeadlineAfter(1, TimeUnit.MINUTES)
        .generate(request);
  }

  /** Prints the text as it comes; after so many characters the call is cancelled. */
  private static void show(BlockingClientCall<?, GenerateResponse> call, int maxCharacters)
      throws StatusException, InterruptedException {
    int characters = 0;
    for (GenerateResponse message = call.read(); message != null; message = call.read()) {
      String text = message.getDelta().getText();
      System.out.print(text);
      System.out.flush();
      characters += text.length();
      if (message.hasFinished()) {
        Usage usage = message.getFinished().getUsage();
        System.out.printf(
            "%n[%d tokens in, %d out]%n", usage.getPromptTokens(), usage.getCompletionTokens());
      } else if (characters >= maxCharacters) {
        call.cancel("enough text", null);
        System.out.println("\n[cancelled]");
        return;
      }
    }
  }

  /** Puts the stable reason, which programs should go by, before the text for people. */
  private static String explain(StatusException error) throws InvalidProtocolBufferException {
    String message = error.getStatus().getDescription();
    for (Any detail : StatusProto.fromThrowable(error).getDetailsList()) {
      if (detail.is(ErrorInfo.class)) {
        return detail.unpack(ErrorInfo.class).getReason() + ": " + message;
      }
    }
    return error.getStatus().getCode() + ": " + message;
  }

  private static String env(String name, String otherwise) {
    return System.getenv().getOrDefault(name, otherwise);
  }
}
