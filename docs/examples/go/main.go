// Streams one answer: go run . "Once upon a time"
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	commonv1 "mlxmesh-example/gen/mlxmesh/common/v1"
	generationv1 "mlxmesh-example/gen/mlxmesh/generation/v1"
)

func main() {
	prompt := "Once upon a time"
	if len(os.Args) > 1 {
		prompt = os.Args[1]
	}
	if err := run(env("MLXMESH_ADDRESS", "localhost:50051"), prompt); err != nil {
		fmt.Fprintln(os.Stderr, explain(err))
		os.Exit(1)
	}
}

func run(address, prompt string) error {
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	stream, err := generationv1.NewGenerationServiceClient(connection).Generate(ctx, &generationv1.GenerateRequest{
		Model:     env("MLXMESH_EXAMPLE_MODEL", "pocket"),
		Input:     &generationv1.GenerateRequest_Prompt{Prompt: prompt},
		MaxTokens: proto.Uint32(60),
		Sampling:  &commonv1.Sampling{Temperature: proto.Float32(0.7)},
	})
	if err != nil {
		return err
	}
	return show(stream)
}

func show(stream grpc.ServerStreamingClient[generationv1.GenerateResponse]) error {
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		fmt.Print(message.GetDelta().GetText())
		if finished := message.GetFinished(); finished != nil {
			usage := finished.GetUsage()
			fmt.Printf("\n[%d tokens in, %d out]\n", usage.GetPromptTokens(), usage.GetCompletionTokens())
		}
	}
}

// explain puts the stable reason, which programs should go by, before the text for people.
func explain(err error) string {
	answer := status.Convert(err)
	for _, detail := range answer.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.GetReason() + ": " + answer.Message()
		}
	}
	return answer.Code().String() + ": " + answer.Message()
}

func env(name, otherwise string) string {
	if value, ok := os.LookupEnv(name); ok {
		return value
	}
	return otherwise
}
